"""Adapters name the model that they were trained on: a warning where that is not the model below them."""

from __future__ import annotations

from pathlib import Path

import pytest

from svc_dist.plan.make import make_plan
from svc_dist.plan.settings import Settings
from svc_dist.recipe.load import load_recipe
from tests.support.adapters import config, llama_modules, lora, write_adapter
from tests.support.checkpoints import llama_config, llama_like, write_checkpoint, write_recipe


def warned(tmp_path: Path, named: list[str], folder: str = "base", recorded: str | None = None) -> list[str]:
    keys = {} if recorded is None else {"_name_or_path": recorded}
    models = [write_checkpoint(tmp_path / folder, llama_like(0), config=llama_config(**keys))]
    for number, name in enumerate(named):
        data = config(base_model_name_or_path=name)
        models.append(write_adapter(tmp_path / f"a{number}", lora(llama_modules(), seed=number), data))
    made = make_plan(load_recipe(write_recipe(tmp_path / "r.yaml", models)), Settings())
    return [warning for warning in made.warnings if "base_model_name_or_path" in warning]


def test_another_base_is_named_once_with_the_recipes_own(tmp_path: Path) -> None:
    (warning,) = warned(tmp_path, ["Qwen/Qwen2.5-Coder-7B", "Qwen/Qwen2.5-Coder-7B"], recorded="Qwen/Qwen2.5-7B")
    assert f"{tmp_path}/a0 and 1 more: trained on Qwen/Qwen2.5-Coder-7B" in warning
    assert f"merged over {tmp_path}/base (Qwen/Qwen2.5-7B by its config.json)" in warning


@pytest.mark.parametrize(
    ("name", "folder", "recorded"),
    [
        ("Qwen/Qwen2.5-7B", "Qwen2.5-7B", None),
        ("/scratch/them/qwen2.5-7b/", "Qwen2.5-7B", None),
        ("unsloth/Qwen2.5-7B-unsloth-bnb-4bit", "base", "Qwen/Qwen2.5-7B"),
        ("Qwen/Qwen2.5-7B@main", "models--Qwen--Qwen2.5-7B/snapshots/0123abcd", None),
        ("", "base", None),
    ],
)
def test_the_same_base_by_another_way_is_no_warning(
    name: str, folder: str, recorded: str | None, tmp_path: Path
) -> None:
    assert warned(tmp_path, [name], folder, recorded) == []


def test_each_other_base_is_named(tmp_path: Path) -> None:
    first, second = warned(tmp_path, ["org/one", "org/two", "org/base"])
    assert "trained on org/one" in first
    assert "trained on org/two" in second
