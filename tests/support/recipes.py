"""Recipes as text, resolved or refused."""

from __future__ import annotations

import pickle

import pytest

from svc_dist.errors import ExitCode, RecipeError
from svc_dist.recipe.choices import ResultChoices
from svc_dist.recipe.load import parse_recipe
from svc_dist.recipe.resolved import ResolvedRecipe

MINIMAL = """\
base_model: base
models:
  - model: one
    parameters: {weight: 0.3}
  - model: two
merge_method: task_arithmetic
"""


def resolved(text: str) -> ResolvedRecipe:
    return parse_recipe(text, "r.yaml", "/recipes")


def locations(recipe: ResolvedRecipe) -> list[str]:
    """Of the base and the experts."""
    return [model.location for model in recipe.models]


def chosen(text: str) -> ResultChoices:
    """The choices of a recipe with one result."""
    (result,) = resolved(text).results
    return result


def refused(text: str) -> str:
    with pytest.raises(RecipeError) as caught:
        parse_recipe(text, "r.yaml", "/recipes")
    assert caught.value.exit_code == ExitCode.USAGE
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    return str(caught.value)
