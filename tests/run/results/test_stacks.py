"""Small matrices that are tensors of their own are merged together on a device, as those of one tensor are.

The device is pretended, as ``tests/support/pretended_device.py`` says: no figure here is one of a GPU.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import svc_dist
from svc_dist.errors import DamagedInputError, UnitsFailedError
from tests.run.results.test_on_device import MIXTURE, models, planned
from tests.support.checkpoints import recipe_data, write_checkpoint
from tests.support.pretended_device import Counts, counted_units

COUNT, EXPERTS = 8, 3
MERGES = [("task_arithmetic", "svc"), ("iso_c", "svc"), ("tsv_m", "svc"), ("tsv_m", None), ("swudi", "svc")]


def name(number: int, what: str = "up_proj") -> str:
    return f"model.layers.0.mlp.experts.{number}.{what}.weight"


def own(folder: Path, shape: tuple[int, int], what: str = "up_proj") -> list[dict[str, Tensor]]:
    """The tensors of the base and of each expert: the matrices of a mixture that ``folder`` has in one tensor."""
    stacked = [load_file(one / "model.safetensors")[MIXTURE] for one in models(folder, MIXTURE, (COUNT, *shape))]
    return [{name(number, what): matrix for number, matrix in enumerate(one)} for one in stacked]


def written(folder: Path, inputs: list[dict[str, Tensor]]) -> list[Path]:
    return [write_checkpoint(folder / "own" / str(number), one, 1) for number, one in enumerate(inputs)]


def merged(recipe: Mapping[str, Any], out: Path, device: str) -> dict[str, Tensor]:
    svc_dist.merge(dict(recipe), out, executor="inline", slots=1, device=device)
    return load_file(out / "model.safetensors")


def on_device(recipe: Mapping[str, Any], out: Path) -> tuple[dict[str, Tensor], Counts]:
    with counted_units() as counts:
        found = merged(recipe, out, "cuda")
    return found, counts


def report(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "merge_report.json").read_text())
    return found


def off(one: Tensor, other: Tensor, base: Tensor) -> float:
    """How far a result is from another one, relative to how far that is from the base."""
    return float((one.float() - other.float()).norm() / (other.float() - base.float()).norm())


@pytest.mark.parametrize("shape", [(40, 64), (64, 40)], ids=str)
@pytest.mark.parametrize(("method", "calibrate"), MERGES, ids=str)
def test_matrices_of_their_own_cost_what_those_of_one_tensor_cost_and_are_the_same(
    tmp_path: Path, method: str, calibrate: str | None, shape: tuple[int, int]
) -> None:
    given: dict[str, Any] = {"dtype": "float32"} | ({"calibrate": calibrate} if calibrate else {})
    inputs = own(tmp_path, shape)
    recipe = recipe_data(written(tmp_path, inputs), method, **given)
    found, counts = on_device(recipe, tmp_path / "there")
    assert counts.held == 0
    launches, waits, sent, peak = counts.launches, counts.waits, counts.sent, counts.peak
    rules = [{"match": MIXTURE, "stored": "out_in"}]
    together, counts = on_device(
        recipe_data([tmp_path / f"{at}" for at in range(4)], method, rules=rules, **given), tmp_path / "one"
    )
    assert launches <= counts.launches
    assert waits <= counts.waits
    assert sent == counts.sent
    with counted_units():
        assert peak <= planned(recipe)
    here = merged(recipe, tmp_path / "here", "cpu")
    for number in range(COUNT):
        assert torch.equal(found[name(number)], together[MIXTURE][number])
        assert off(found[name(number)], here[name(number)], inputs[0][name(number)]) <= 6e-3
    alone, there = report(tmp_path / "here"), report(tmp_path / "there")
    assert [(one["tensor"], one["matrix"]) for one in there["matrices"]] == [(name(at), 0) for at in range(COUNT)]
    for one, other in zip(there["matrices"], alone["matrices"], strict=True):
        assert set(one) == set(other)
        assert one["sigma"] == pytest.approx(other["sigma"], rel=2e-3)
    assert there["deltas"] == alone["deltas"]
    assert len(there["deltas"]) == COUNT


def test_shapes_may_alternate_and_each_result_keeps_its_place(tmp_path: Path) -> None:
    inputs = [
        {key: value for both in zip(wide.items(), tall.items(), strict=True) for key, value in both}
        for wide, tall in zip(
            own(tmp_path / "wide", (40, 64)), own(tmp_path / "tall", (64, 40), "down_proj"), strict=True
        )
    ]
    for number, one in enumerate(inputs):
        one["model.layers.0.mlp.experts.3.norm.weight"] = torch.full((64,), 1.0 + number).bfloat16()
    recipe = recipe_data(written(tmp_path, inputs), "iso_c", calibrate="svc")
    found, counts = on_device(recipe, tmp_path / "there")
    assert counts.waits <= 2 * 6
    assert counts.launches < 2 * 300
    here = merged(recipe, tmp_path / "here", "cpu")
    assert list(found) == list(here)
    for key, base in inputs[0].items():
        assert off(found[key], here[key], base) <= 6e-3
    names = [one["tensor"] for one in report(tmp_path / "there")["matrices"]]
    assert names == [one["tensor"] for one in report(tmp_path / "here")["matrices"]]
    with counted_units():
        assert counts.peak <= planned(recipe)


def test_a_matrix_that_no_expert_changes_is_the_bases_and_the_others_stay_together(tmp_path: Path) -> None:
    inputs = own(tmp_path, (40, 64))
    for one in inputs[1:]:
        one[name(2)] = inputs[0][name(2)]
    recipe = recipe_data(written(tmp_path, inputs), "iso_c")
    found, counts = on_device(recipe, tmp_path / "there")
    assert counts.waits <= 5
    assert torch.equal(found[name(2)], inputs[0][name(2)])
    here = merged(recipe, tmp_path / "here", "cpu")
    assert all(off(found[key], here[key], inputs[0][key]) <= 6e-3 for key in here if key != name(2))
    there, alone = (report(tmp_path / folder)["matrices"] for folder in ("there", "here"))
    assert [one["tensor"] for one in there] == [one["tensor"] for one in alone]


@pytest.mark.parametrize(("method", "calibrate"), [("iso_c", None), ("task_arithmetic", "svc")], ids=str)
def test_a_damaged_expert_is_named_by_its_own_tensor(tmp_path: Path, method: str, calibrate: str | None) -> None:
    inputs = own(tmp_path, (40, 64))
    broken = inputs[2][name(5)].clone()
    broken[3, 7] = math.nan
    inputs[2][name(5)] = broken
    recipe = recipe_data(written(tmp_path, inputs), method, **({"calibrate": calibrate} if calibrate else {}))
    with counted_units(), pytest.raises(DamagedInputError) as caught:
        merged(recipe, tmp_path / "out", "cuda")
    assert f"own/2/model.safetensors: tensor {name(5)!r} holds nan at element {3 * 64 + 7}" in f"{caught.value}"


def test_a_result_that_does_not_fit_into_its_dtype_is_named(tmp_path: Path) -> None:
    inputs = own(tmp_path, (40, 64))
    for number, one in enumerate(inputs):
        one[name(4)] = one[name(4)].clone()
        one[name(4)][0, 0] = 6e4 + 1e4 * (number > 0)
    recipe = recipe_data(written(tmp_path, inputs), calibrate="svc", dtype="float16")
    with counted_units(), pytest.raises(UnitsFailedError, match=f"tensor '{name(4)}'.*does not fit into float16"):
        merged(recipe, tmp_path / "out", "cuda")


def test_a_method_that_takes_them_one_by_one_gets_the_inputs_that_lie_there(tmp_path: Path) -> None:
    inputs = own(tmp_path, (40, 256))[:3]  # of two experts, a smaller Gram matrix
    recipe = recipe_data(written(tmp_path, inputs), "swudi")
    found, counts = on_device(recipe, tmp_path / "there")
    assert counts.sent < 2 * 3 * 2 * COUNT * 40 * 256  # and vectors that estimates start from
    assert counts.waits > 2 * COUNT
    here = merged(recipe, tmp_path / "here", "cpu")
    assert all(off(found[key], here[key], inputs[0][key]) <= 6e-3 for key in here)
    with counted_units():
        assert counts.peak <= planned(recipe)


def test_without_room_for_a_stack_the_path_of_least_memory_takes_one_after_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def full(*_: Any) -> None:
        asked.append(1)
        raise torch.OutOfMemoryError("CUDA out of memory, pretended")

    inputs = own(tmp_path, (40, 64))
    recipe = recipe_data(written(tmp_path, inputs), "iso_c")
    monkeypatch.setattr("svc_dist.run.results.stacks.merged_batch", full)
    here = merged(recipe, tmp_path / "here", "cpu")
    assert not asked  # the CPU stacks nothing
    found, _ = on_device(recipe, tmp_path / "there")
    assert len(asked) == 1
    assert report(tmp_path / "there")["low_memory_units"] == ["000000"]
    assert all(off(found[key], here[key], inputs[0][key]) <= 6e-3 for key in here)
