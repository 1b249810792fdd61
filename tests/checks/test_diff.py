"""Comparing two models: what differs, by how much, whatever their sharding, dtypes and storage."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch
from torch import Tensor

from svc_dist.checks import diff as module
from svc_dist.checks.diff import TensorDifference, diff
from svc_dist.run.inputs import whole
from tests.support.checkpoints import write_checkpoint
from tests.support.quantised import FAMILIES, gpt_oss_experts, tensors_of, write_quantised


def models(folder: Path, a: dict[str, Tensor], b: dict[str, Tensor], shards: int = 2) -> tuple[str, str]:
    first, second = write_checkpoint(folder / "a", a, shards=1), write_checkpoint(folder / "b", b, shards=shards)
    return str(first), str(second)


def one(folder: Path, a: Tensor, b: Tensor) -> TensorDifference:
    return diff(*models(folder, {"w": a}, {"w": b}, shards=1)).tensors[0]


def test_the_same_weights_in_other_shards_are_identical(tmp_path: Path) -> None:
    tensors = {f"layer.{n}": torch.randn(7, 5) for n in range(12)} | {"ids": torch.arange(3)}
    found = diff(*models(tmp_path, tensors, tensors))
    assert found.same
    assert found.counts() == {"identical": 13}
    assert [t.name for t in found.tensors][1:4] == ["layer.0", "layer.1", "layer.2"]


def test_the_figures_are_those_of_the_definition(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CHUNK", 7)
    monkeypatch.setattr(module, "_BLOCK", 20)
    a = torch.randn(11, 9)
    b = a.clone()
    b[3:6] += torch.randn(3, 9)
    found = one(tmp_path, a, b)
    wide = a.double(), b.double()
    assert found.kind == "different"
    assert (found.elements, found.differing) == (99, 27)
    assert found.max_abs == float((wide[0] - wide[1]).abs().max())
    assert found.relative_norm == pytest.approx(float((wide[0] - wide[1]).norm() / wide[0].norm()), rel=1e-12)
    assert found.cosine == pytest.approx(float((wide[0] * wide[1]).sum() / wide[0].norm() / wide[1].norm()), rel=1e-12)


def test_another_dtype_with_the_same_values_is_equal_not_identical(tmp_path: Path) -> None:
    weights = torch.randn(4, 4).bfloat16()
    assert one(tmp_path, weights, weights.float()).kind == "equal"
    assert one(tmp_path / "zero", torch.zeros(2), -torch.zeros(2)).kind == "equal"


def test_what_cannot_be_compared_is_said(tmp_path: Path) -> None:
    a = {"here": torch.ones(2), "grown": torch.ones(3, 2), "kind": torch.ones(2), "ids": torch.arange(4)}
    b = {"there": torch.ones(2), "grown": torch.ones(4, 2), "kind": torch.ones(2).int(), "ids": torch.arange(4) + 1}
    found = diff(*models(tmp_path, a, b))
    kinds = {tensor.name: tensor.kind for tensor in found.tensors}
    assert kinds == {
        "grown": "shape", "here": "only in A", "ids": "different", "kind": "dtype", "there": "only in B",
    }  # fmt: skip
    assert not found.same
    assert "F32 [3, 2] against F32 [4, 2]" in found.text()


@pytest.mark.parametrize("place", [0, -1])
def test_nan_is_never_hidden(tmp_path: Path, place: int) -> None:
    a = torch.randn(3_000_000)
    b = a + 1
    b[place] = math.nan
    found = one(tmp_path, a, b)
    assert found.kind == "different"
    assert found.max_abs is not None
    assert math.isnan(found.max_abs)


def test_the_worst_come_first(tmp_path: Path) -> None:
    a = {f"w{n}": torch.ones(8) for n in range(4)}
    b = {"w0": torch.ones(8), "w1": torch.ones(8) * 1.1, "w2": torch.ones(8) * 2, "w3": torch.ones(9)}
    found = diff(*models(tmp_path, a, b))
    assert [tensor.name for tensor in found.worst()] == ["w3", "w2", "w1"]
    assert found.text(1).endswith("and 2 more")


def test_models_behind_urls_are_compared_range_by_range(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BLOCK", 1000)
    a = torch.randn(70, 50)
    folder = write_checkpoint(tmp_path / "a", {"w": a}, shards=1)
    memory = fsspec.filesystem("memory")
    changed = write_checkpoint(tmp_path / "b", {"w": a + (torch.arange(3500).view(70, 50) == 2999)}, shards=1)
    for file in sorted(changed.iterdir()):
        memory.pipe_file(f"/diff/b/{file.name}", file.read_bytes())
    found = diff(str(folder), "memory://diff/b").tensors[0]
    assert found.differing == 1


def test_the_result_is_json_without_a_number_that_json_lacks(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from svc_dist.cli.app import app

    first, second = models(tmp_path, {"w": torch.ones(2)}, {"w": torch.tensor([1.0, math.nan])}, shards=1)
    done = CliRunner().invoke(app, ["diff", first, second, "--json", "--exit-code"])
    assert done.exit_code == 1

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    assert json.loads(done.stdout, parse_constant=refuse)["counts"] == {"different": 1}
    assert CliRunner().invoke(app, ["diff", first, first, "--exit-code"]).exit_code == 0


SHAPES: dict[str, Any] = {"a.down_proj.weight": (70, 64), "a.up_proj.weight": (64, 96), "norm.weight": (64,)}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_quantised_weight_is_one_tensor_and_is_compared_by_value(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    monkeypatch.setattr(whole, "_CODED", 700)
    one, other = tensors_of(0, SHAPES), tensors_of(1, SHAPES)
    a = write_quantised(tmp_path / "a", one, FAMILIES[family])
    b = write_quantised(tmp_path / "b", other, FAMILIES[family])
    write_checkpoint(tmp_path / "plain", {name: value.bfloat16() for name, value in a.items()})
    locations = [str(tmp_path / name) for name in ("a", "b", "plain")]
    assert diff(locations[0], locations[0]).counts() == {"identical": 3}
    assert diff(locations[0], locations[2]).counts() == {"equal": 2, "identical": 1}
    found = {tensor.name: tensor for tensor in diff(*locations[:2]).tensors}
    assert set(found) == set(SHAPES)
    for name, tensor in found.items():
        right = float((b[name].double() - a[name].double()).norm() / a[name].double().norm())
        assert tensor.relative_norm == pytest.approx(right, rel=1e-12)
    assert "70, 64]" in found["a.down_proj.weight"].a
    assert not {"U8", "I32", "F8_E4M3"} & set(found["a.down_proj.weight"].a.split())


def test_experts_of_gpt_oss_are_compared_as_they_are_decoded(tmp_path: Path) -> None:
    weight = tensors_of(0, {"e.down_proj": (3, 64, 6)})["e.down_proj"]
    stored, decoded = gpt_oss_experts("e.down_proj", weight)
    write_checkpoint(tmp_path / "a", stored, shards=2)
    write_checkpoint(tmp_path / "b", {"e.down_proj": decoded.bfloat16()}, shards=1)
    (found,) = diff(str(tmp_path / "a"), str(tmp_path / "b")).tensors
    assert (found.name, found.kind, found.a) == ("e.down_proj", "equal", "MXFP4 [3, 64, 6]")


def test_scales_of_activations_count_where_both_models_have_them(tmp_path: Path) -> None:
    tensors, scale = tensors_of(0, SHAPES), "a.up_proj.input_scale"
    for number, name in enumerate("ab"):
        decoded = write_quantised(tmp_path / name, {**tensors, scale: torch.tensor(1.0 + number)}, FAMILIES["nvfp4"])
    write_checkpoint(tmp_path / "plain", {name: value.bfloat16() for name, value in decoded.items() if name != scale})
    assert [one.name for one in diff(str(tmp_path / "a"), str(tmp_path / "b")).worst()] == [scale]
    assert diff(str(tmp_path / "a"), str(tmp_path / "plain")).same
