"""Public recipes are planned on small models of their shape; what mergekit refuses is refused for a listed reason."""

from __future__ import annotations

from pathlib import Path

import pytest

import svc_dist
from svc_dist.errors import PlanError, RecipeError
from svc_dist.methods.registry import METHODS
from tests.support.public_recipes import PublicRecipe, public_recipes

#: Recipes that mergekit 0.1.5 refuses: a part of the reason that svc_dist gives, or None where it plans them.
REFUSED_THERE: dict[str, str | None] = {
    "006": "needs base_model",
    "031": "density - epsilon must be above 0",
    "035": "takes exactly one expert",
    "055": "mergekit-moe",
    "104": "ties needs a base",
    "108": "'t'",
    "135": "slerp merges one model with the base",
    "142": "merge_method",
    "150": None,  # ties without the base among the sources: the author wants the base
    "165": "slerp merges one model with the base",
    "173": None,
    "174": "listed twice",
    "176": "listed twice",
    "177": "needs base_model",
    "183": "listed twice",
    "185": "'weight'",
    "194": "needs base_model",
    "196": "'dare'",
    "214": "needs base_model",
    "233": "listed twice",
    "234": "slices and models",
    "244": "'layer_range' is missing",
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


def test_public_recipes_that_mergekit_takes_are_planned_and_others_refused_for_a_reason(tmp_path: Path) -> None:
    recipes = list(public_recipes())
    errors = {recipe.number: error for recipe in recipes if (error := outcome(recipe, tmp_path)) is not None}
    taken = {recipe.number for recipe in recipes if recipe.taken}
    assert (len(recipes), len(taken)) == (163, 141)
    assert not {number: error for number, error in errors.items() if number in taken}
    assert {recipe.number for recipe in recipes} - taken == set(REFUSED_THERE)
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
