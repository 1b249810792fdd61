"""Looking at experts before a merge: it finds what was put there, writes nothing, and agrees with the merge."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from typer.testing import CliRunner

import svc_dist
from svc_dist.cli.app import app
from svc_dist.errors import RecipeError
from svc_dist.report.diagnosis import Diagnosis
from svc_dist.run.progress import MergeProgress
from tests.support.checkpoints import recipe_data, tree_state, write_checkpoint, write_llamas, write_recipe

LAYERS = 3


def write_experts(folder: Path, count: int = 3, **shared: float) -> list[Path]:
    """Experts whose deltas are one common matrix by ``shared[kind]`` and their own for the rest."""
    names = [f"model.layers.{layer}.{kind}.weight" for layer in range(LAYERS) for kind in shared]
    random = torch.Generator().manual_seed(7)

    def noise() -> Tensor:
        return torch.randn(48, 32, generator=random)

    base, common = {name: noise() for name in names}, {name: noise() for name in names}
    models = [write_checkpoint(folder / "base", base, shards=1)]
    for number in range(count):
        expert = {}
        for name in names:
            share = shared[name.split(".")[3]]
            expert[name] = base[name] + 0.1 * (share**0.5 * common[name] + (1 - share) ** 0.5 * noise())
        models.append(write_checkpoint(folder / f"expert{number}", expert, shards=1))
    return models


def test_shared_deltas_are_counted_as_often_as_there_are_experts_and_own_ones_once(tmp_path: Path) -> None:
    found = Diagnosis(svc_dist.inspect(recipe_data(write_experts(tmp_path, same=1.0, own=0.0))))
    same = [matrix for matrix in found.calibrated if matrix.name.kind == "same"]
    own = [matrix for matrix in found.calibrated if matrix.name.kind == "own"]
    assert len(same) == len(own) == LAYERS
    assert found.gamma(same) == pytest.approx(1 / 3, abs=1e-4)
    assert found.gamma(own) > 0.7
    assert found.mean_cosine([matrix.tensor for matrix in same]) == pytest.approx(1, abs=1e-5)
    assert abs(found.mean_cosine([matrix.tensor for matrix in own])) < 0.1


def test_the_overlap_is_that_of_the_deltas(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    models = write_experts(tmp_path, some=0.4)
    base, *experts = (load_file(model / "model.safetensors") for model in models)
    rows = np.array([torch.cat([(e[n] - base[n]).flatten() for n in sorted(base)]).numpy() for e in experts])
    norms = np.linalg.norm(rows, axis=1)
    found = Diagnosis(svc_dist.inspect(recipe_data(models)))
    assert np.allclose(found.overlap(), rows @ rows.T / np.outer(norms, norms), atol=1e-4)
    size = np.linalg.norm(torch.cat([base[n].flatten() for n in sorted(base)]).numpy())
    relative = np.sqrt((found.norms()[1] ** 2).mean(0))
    assert np.allclose(relative, norms / size, rtol=0.05)


def test_it_sees_what_the_calibrated_merge_reports(tmp_path: Path) -> None:
    models = write_experts(tmp_path, some=0.5)
    svc_dist.merge(recipe_data(models, calibrate="svc"), tmp_path / "out", executor="inline")
    report = json.loads((tmp_path / "out" / "merge_report.json").read_text())
    found = svc_dist.inspect(recipe_data(models, "swudi"))
    assert found.matrices == report["matrices"]
    assert found.deltas == report["deltas"]


@pytest.mark.parametrize(
    ("method", "keys", "said"),
    [
        ("auto", {}, {"merge_method": "auto"}),
        ("auto", {"calibrate": "none"}, {"merge_method": "auto", "calibrate": {"method": "none"}}),
        ("ties", {"calibrate": "auto"}, {"merge_method": "ties", "calibrate": "auto"}),
    ],
)
def test_a_recipe_with_auto_is_reported_as_it_is(
    method: str, keys: dict[str, str], said: dict[str, object], tmp_path: Path
) -> None:
    models = write_experts(tmp_path, some=0.5)
    reported = svc_dist.inspect(recipe_data(models, method, **keys), device="cpu").recipe
    kept = ("merge_method", "parameters", "calibrate")
    assert {key: reported[key] for key in kept if key in reported} == said | {"parameters": {}}
    assert [one["model"] for one in reported["models"]] == [str(model) for model in models[1:]]


def test_only_the_asked_layers_are_looked_at(tmp_path: Path) -> None:
    models = write_experts(tmp_path, some=0.5)
    found = svc_dist.inspect(recipe_data(models), "0,2-2")
    assert [entry["tensor"] for entry in found.matrices] == [f"model.layers.{n}.some.weight" for n in (0, 2)]
    with pytest.raises(RecipeError, match="names layer 7, but the model has layers 0 to 2"):
        svc_dist.inspect(recipe_data(models), "7")
    for wrong in ("", "x", "3-1", "1,,2", "-1"):
        with pytest.raises(RecipeError, match="numbers and spans"):
            svc_dist.inspect(recipe_data(models), wrong)


def test_kept_tensors_are_not_looked_at(tmp_path: Path) -> None:
    models = write_experts(tmp_path, some=0.5, other=0.5)
    rules = [{"match": "*.other.weight", "keep": "base"}]
    found = svc_dist.inspect(recipe_data(models, rules=rules))
    assert {entry["tensor"].split(".")[3] for entry in found.matrices} == {"some"}


def test_a_rule_that_merges_is_before_one_that_keeps(tmp_path: Path) -> None:
    models = write_experts(tmp_path, some=0.5, other=0.5)
    rules = [{"match": "*.some.weight", "merge_method": "ties"}, {"match": "*", "keep": "base"}]
    found = svc_dist.inspect(recipe_data(models, rules=rules))
    assert {entry["tensor"].split(".")[3] for entry in found.matrices} == {"some"}


def test_the_command_prints_writes_a_page_and_leaves_the_models_alone(tmp_path: Path) -> None:
    models = write_experts(tmp_path / "models", same=1.0, own=0.0)
    before = [tree_state(model) for model in models]
    recipe = write_recipe(tmp_path / "recipe.yaml", models)
    page = tmp_path / "page.html"
    done = CliRunner().invoke(app, ["inspect", str(recipe), "--html", str(page)])
    assert done.exit_code == 0, done.output
    assert "over-counting" in done.stdout
    assert "Calibrating that sum (calibrate: svc) would shrink" in page.read_text()
    assert json.loads(CliRunner().invoke(app, ["inspect", str(recipe), "--json"]).stdout)["matrices"]
    assert [tree_state(model) for model in models] == before
    assert sorted(file.name for file in tmp_path.iterdir()) == ["models", "page.html", "recipe.yaml"]


def test_it_measures_how_far_the_experts_are_from_the_base(tmp_path: Path) -> None:
    models = write_experts(tmp_path, count=2, same=0.5)
    report = svc_dist.inspect(recipe_data(models), "1")
    (found,) = report.only_where
    name = "model.layers.1.same.weight"
    base, *experts = (load_file(folder / "model.safetensors")[name].double() for folder in models)
    expected = [float((expert - base).norm() / base.norm()) for expert in experts]
    assert found["tensor"] == name
    assert found["differences"] == pytest.approx(expected, rel=1e-5)
    shown = CliRunner().invoke(app, ["inspect", str(write_recipe(tmp_path / "r.yaml", models))]).output
    row = next(line for line in shown.splitlines() if line.startswith("all ")).split()
    assert row[1] == str(LAYERS)
    assert float(row[2]) <= float(row[3]) <= float(row[4])
    largest = max(max(one["differences"]) for one in svc_dist.inspect(recipe_data(models)).only_where)
    assert float(row[4]) == pytest.approx(largest, rel=1e-2)


@pytest.mark.parametrize("layers", ["40", "0,40", "0-40"])
def test_a_layer_that_the_model_lacks_is_a_mistake(tmp_path: Path, layers: str) -> None:
    models = write_experts(tmp_path, count=2, same=0.5)
    missing = "40" if layers != "0-40" else str(LAYERS)
    with pytest.raises(RecipeError, match=f"names layer {missing}, but the model has layers 0 to {LAYERS - 1}"):
        svc_dist.inspect(recipe_data(models), layers)


@pytest.mark.parametrize("layers", [None, "1"])
def test_units_without_a_matrix_to_inspect_are_left_out(tmp_path: Path, layers: str | None) -> None:
    models = write_llamas(tmp_path / "models")
    several = svc_dist.inspect(recipe_data(models, max_shard_size="3kB"), layers)
    one = svc_dist.inspect(recipe_data(models), layers)
    assert [entry["tensor"] for entry in several.matrices] == [entry["tensor"] for entry in one.matrices]
    assert Diagnosis(several).times_counted() == Diagnosis(one).times_counted()
    assert several.ranges == several.shards == several.tensors == ()


def test_a_callback_is_told_how_much_is_read_and_that_nothing_is_written(tmp_path: Path) -> None:
    recipe = recipe_data(write_llamas(tmp_path / "models"), max_shard_size="3kB")
    calls = list[MergeProgress]()
    svc_dist.inspect(recipe, on_progress=calls.append)
    assert (calls[0].units_done, calls[0].share) == (0, 0.0)
    assert (calls[-1].units_done, calls[-1].share) == (calls[0].units, 1.0)
    plan = svc_dist.make_plan(recipe)
    assert 0 < calls[-1].bytes_done == calls[0].bytes <= plan.bytes_in


def test_a_recipe_that_leaves_its_method_open_is_inspected_as_any_other(tmp_path: Path) -> None:
    models = write_experts(tmp_path, some=0.4)
    left, named = (Diagnosis(svc_dist.inspect(recipe_data(models, method))) for method in ("auto", "task_arithmetic"))
    assert left.gamma() == named.gamma()
    assert left.report.auto is None
