"""Public recipes are planned, each on small models of its shape, or refused for a reason that is listed here."""

from __future__ import annotations

from pathlib import Path

import pytest

import svc_dist
from svc_dist.errors import PlanError, RecipeError
from svc_dist.methods.registry import METHODS
from tests.support.public_recipes import PublicRecipe, public_recipes

#: Parts of the reasons for which svc_dist refuses recipes that mergekit takes.
REASONS = (
    "svc_dist does not assemble layers of different models",
    "found another document",
    "svc_dist does not support this key",
)
#: Recipes that mergekit 0.1.5 refuses: a part of the reason that svc_dist gives, or None where it plans them.
REFUSED_THERE: dict[str, str | None] = {
    "031": "density - epsilon must be above 0",
    "035": "takes exactly one expert",
    "055": "mergekit-moe",
    "108": "'t'",
    "176": "is listed twice",
    "177": "needs base_model",
    "185": "'weight' is a parameter, not a key",
    "194": "needs base_model",
    "196": "takes no 'dare', and mergekit stops at {'drop_rate': 0.9}",
    "233": "is listed twice",
}
#: The methods of mergekit 0.1.5, as its registry lists them.
MERGEKIT = (
    "arcee_fusion breadcrumbs breadcrumbs_ties dare_linear dare_ties della della_linear karcher linear model_stock "
    "multislerp nearswap nuslerp passthrough ram ramplus_tl sce slerp task_arithmetic ties"
)


def outcome(recipe: PublicRecipe, root: Path) -> str | None:
    """None for a recipe that is planned, else the error: the recipe's own, not that of a model or a storage."""
    try:
        svc_dist.make_plan(recipe.write(root), device="cpu")
    except (RecipeError, PlanError) as error:
        return str(error)
    return None


def test_public_recipes_are_planned_or_refused_for_a_listed_reason(tmp_path: Path) -> None:
    recipes = list(public_recipes())
    errors = {recipe.number: error for recipe in recipes if (error := outcome(recipe, tmp_path)) is not None}
    taken = [recipe.number for recipe in recipes if recipe.taken]
    assert (len(recipes), len(taken)) == (163, 141)
    refused = {number: errors[number] for number in taken if number in errors}
    assert not {number: error for number, error in refused.items() if not any(words in error for words in REASONS)}
    for number, words in REFUSED_THERE.items():
        assert (words or "") in errors.get(number, ""), number
        assert (words is None) == (number not in errors), number


def test_no_method_of_mergekit_is_missing() -> None:
    assert set(MERGEKIT.split()) <= set(METHODS)


@pytest.mark.parametrize(
    "recipe", [one for one in public_recipes() if one.number in ("010", "124")], ids=lambda one: one.number
)
def test_the_models_of_a_recipe_have_its_shape(recipe: PublicRecipe, tmp_path: Path) -> None:
    place = recipe.models(tmp_path)
    names = {folder.name for folder in place.iterdir()}
    assert "base" in names
    assert all((place / name / "adapter_config.json").exists() == name.startswith("a") for name in names)
