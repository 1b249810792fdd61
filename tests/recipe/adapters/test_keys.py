"""The keys of a recipe that writes an adapter."""

from __future__ import annotations

from typing import Any

import pytest

from svc_dist.errors import RecipeError
from svc_dist.recipe.load import recipe_from


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"rank": 4}, "rank.*this recipe writes a model"),
        ({"rules": [{"match": "*", "rank": "full"}]}, "rank.*this recipe writes a model"),
        ({"output": "adapter", "chat_template": "auto"}, "has no effect with `output: adapter`"),
        ({"output": "adapter", "rank": 0}, "greater than or equal to 1"),
        ({"output": "adapter", "base_model": None, "merge_method": "linear"}, "base_model is missing"),
    ],
)
def test_refused(keys: dict[str, Any], message: str) -> None:
    recipe = {"base_model": "/b", "models": [{"model": "/a"}, {"model": "/c"}], "merge_method": "task_arithmetic"}
    with pytest.raises(RecipeError, match=message):
        recipe_from(recipe | keys)


def test_taken() -> None:
    recipe = {"base_model": "/b", "models": [{"model": "/a"}], "merge_method": "ties", "output": "adapter", "rank": 8}
    made = recipe_from(recipe)
    assert (made.output, made.rank) == ("adapter", 8)


def test_a_folder_as_output_of_a_recipe_for_mergekit_is_ignored() -> None:
    models = [{"model": "/a", "parameters": {"weight": 1.0}}]
    made = recipe_from({"base_model": "/b", "models": models, "merge_method": "ties", "output": "./merged"})
    assert made.output == "model"
    assert any("mergekit ignores 'output'" in warning for warning in made.warnings)
