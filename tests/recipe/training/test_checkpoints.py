"""``checkpoints`` in a recipe (keys: svc_dist.recipe.training.entry): which are found, and the merge of their mean."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import svc_dist
from svc_dist.cli.texts import plan_lines
from svc_dist.errors import RecipeError
from svc_dist.recipe.load import recipe_from
from svc_dist.recipe.training.checkpoints import step_of
from svc_dist.recipe.training.schedules import schedule_weights
from tests.support.checkpoints import llama_config, llama_like, write_checkpoint


def run(folder: Path, names: list[str]) -> Path:
    for name in (*names, "logs"):
        (folder / name).mkdir(parents=True)
    return folder


def weights(recipe: dict[str, Any]) -> dict[str, float]:
    """The weight of each model, by the name of its folder."""
    made = recipe_from(recipe)
    return {Path(one["model"]).name: one["parameters"]["weight"] for one in made.plain["models"]}


@pytest.mark.parametrize(
    ("name", "step"),
    [
        ("checkpoint-1000", 1000), ("iter_0001000", 1000), ("global_step20", 20), ("step-7", 7), ("epoch_3", 3),
        ("ckpt5", 5), ("0050", 50), ("checkpoint-best", None), ("runs", None), ("checkpoint-10-hf", None),
    ],
)  # fmt: skip
def test_the_steps_of_names(name: str, step: int | None) -> None:
    assert step_of(f"/run/{name}") == step


def test_checkpoints_are_in_the_order_of_their_steps(tmp_path: Path) -> None:
    folder = run(tmp_path / "run", ["checkpoint-900", "checkpoint-1000", "checkpoint-1100"])
    made = weights({"checkpoints": {"folder": str(folder), "schedule": "ema", "beta": 0.5}})
    assert made == {"checkpoint-900": 0.25, "checkpoint-1000": 0.25, "checkpoint-1100": 0.5}
    assert recipe_from({"checkpoints": str(folder)}).models[0].location.endswith("checkpoint-1100")


def test_windows(tmp_path: Path) -> None:
    folder = str(run(tmp_path / "run", [f"iter_{step:07d}" for step in range(100, 1001, 100)]))
    window = {"folder": folder, "schedule": "window"}
    assert list(weights({"checkpoints": {**window, "last": 2}})) == ["iter_0000900", "iter_0001000"]
    assert list(weights({"checkpoints": {**window, "from": 300, "to": 500}})) == [
        "iter_0000300", "iter_0000400", "iter_0000500",
    ]  # fmt: skip
    assert list(weights({"checkpoints": {**window, "every": 4}})) == ["iter_0000200", "iter_0000600", "iter_0001000"]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"folder": "{run}", "last": 9}, "9 checkpoints are wanted, but only 3 are there"),
        ({"folder": "{run}", "from": 300}, r"1 of 3 checkpoints \(steps 100 to 300\) fit"),
        ({"folder": "{run}", "schedul": "ema"}, "unknown key 'schedul'"),
        ({"folder": "{run}", "beta": 1}, "less than 1"),
        ({"folder": "{run}/logs"}, "holds no folder: no checkpoint"),
        ({"schedule": "ema"}, "Field required"),
    ],
)
def test_refused(tmp_path: Path, keys: dict[str, Any], message: str) -> None:
    folder = run(tmp_path / "run", ["step100", "step200", "step300"])
    keys = {key: value.format(run=folder) if isinstance(value, str) else value for key, value in keys.items()}
    with pytest.raises(RecipeError, match=message):
        recipe_from({"checkpoints": keys})


def test_other_keys_that_name_models_are_refused(tmp_path: Path) -> None:
    folder = str(run(tmp_path / "run", ["step100", "step200"]))
    for keys in ({"models": [{"model": "/a"}]}, {"merge_method": "ties"}):
        with pytest.raises(RecipeError, match="checkpoints"):
            recipe_from({"checkpoints": folder, **keys})


def test_several_windows_of_one_pass(tmp_path: Path) -> None:
    states = [llama_like(seed, dtype=torch.float32) for seed in range(4)]
    for step, state in enumerate(states, 1):
        write_checkpoint(tmp_path / "run" / f"checkpoint-{step}00", state, config=llama_config())
    recipe = {
        "checkpoints": {"folder": str(tmp_path / "run"), "schedule": "wsm"},
        "outputs": [{"path": "all"}, {"path": "two", "checkpoints": {"last": 2, "schedule": "window"}}],
    }
    text = "\n".join(plan_lines(svc_dist.make_plan(recipe)))
    assert f"output two: {tmp_path}/run/checkpoint-400 with weight 0.5" in text
    assert "output two: " + str(tmp_path / "run" / "checkpoint-100") not in text
    svc_dist.merge(recipe, tmp_path / "out")
    expected = {"all": schedule_weights("wsm", [100, 200, 300, 400], "sqrt", 0.9), "two": [0, 0, 0.5, 0.5]}
    for path, shares in expected.items():
        made = load_file(tmp_path / "out" / path / "model.safetensors")
        for name, tensor in made.items():
            mean = sum(share * state[name].double() for share, state in zip(shares, states, strict=True))
            torch.testing.assert_close(tensor.double(), mean, rtol=0, atol=1e-6)
