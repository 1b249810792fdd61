"""A mistyped path is the recipe's error, with its line."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from svc_dist.errors import RecipeError
from svc_dist.plan.folders import require_folders
from svc_dist.recipe.load import load_recipe
from tests.support.checkpoints import write_checkpoint


@pytest.mark.parametrize(("wrong", "line"), [("base", 2), ("a", 4), ("b", 5)])
def test_the_line_of_a_path_that_does_not_exist(tmp_path: Path, wrong: str, line: int) -> None:
    for name in ("base", "a", "b"):
        write_checkpoint(tmp_path / name, {"x": torch.ones(2)})
    (tmp_path / wrong).rename(tmp_path / f"{wrong}{wrong}1")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("merge_method: ties\nbase_model: base\nmodels:\n- model: a\n- {model: b, name: other}\n")
    with pytest.raises(RecipeError, match=rf"recipe.yaml:{line} .*: {tmp_path}/{wrong}: no such folder") as caught:
        require_folders(load_recipe(recipe))
    assert caught.value.hint is not None


def test_of_a_model_and_its_adapter_the_missing_one(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "base", {"x": torch.ones(2)})
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("merge_method: ties\nbase_model: base\nmodels:\n- model: base+lora\n")
    with pytest.raises(RecipeError, match=r"recipe.yaml:4 .*/lora: no such folder"):
        require_folders(load_recipe(recipe))
