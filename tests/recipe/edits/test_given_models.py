"""A recipe for models in memory names them, or leaves them out."""

from __future__ import annotations

from svc_dist.recipe.edits.given_models import location_of, of_given_models
from svc_dist.recipe.load import recipe_from
from svc_dist.recipe.origin import UNNAMED
from tests.support.recipes import locations


def test_names_become_locations_whatever_they_hold() -> None:
    data = of_given_models({"merge_method": "ties"}, UNNAMED, ["a/b+c", "d e"], True)
    assert locations(recipe_from(data)) == [location_of(None), location_of("a/b+c"), location_of("d e")]
    assert [model.names[-1] for model in recipe_from(data).models[1:]] == ["a/b+c", "d e"]


def test_a_base_model_of_a_recipe_may_be_an_expert_where_no_base_is_given() -> None:
    given = {"merge_method": "slerp", "base_model": "x/one", "models": [{"model": "x/one"}, {"model": "x/two"}]}
    data = of_given_models(given, UNNAMED, ["one", "two"], False)
    assert locations(recipe_from(data)) == [location_of("one"), location_of("two")]
