"""Under a condition, what is near has the base's bytes and what is far those of the merge; the report says which."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import svc_dist
from svc_dist.run_folder.report import read_report
from tests.support.checkpoints import write_checkpoint
from tests.support.quantised import FAMILIES, tensors_of, write_quantised

#: Of norm 5; the experts' differences from them are 1 and 2 in ``near``, 5 and 10 in ``far``.
BASE = torch.tensor([[3.0, 0.0], [0.0, 4.0]])
NAMES = ("near", "far")


def models(folder: Path, dtype: torch.dtype = torch.float32, fused: bool = False) -> dict[str, Any]:
    """A base and two experts with a tensor that is near the base's and one that is far, or both in one tensor."""
    shifts = {"base": (0.0, 0.0), "one": (1.0, 5.0), "two": (2.0, 10.0)}
    for name, by in shifts.items():
        matrices = [BASE + torch.tensor([[0.0, shift], [0.0, 0.0]]) for shift in by]
        tensors = {"model.layers.0.mlp.experts.down_proj": torch.stack(matrices)} if fused else {}
        if not fused:
            tensors = {f"{of}.weight": matrix for of, matrix in zip(NAMES, matrices, strict=True)}
        write_checkpoint(folder / name, {of: one.to(dtype) for of, one in tensors.items()})
    entries = [{"model": str(folder / name)} for name in ("one", "two")]
    return {"base_model": str(folder / "base"), "models": entries, "merge_method": "linear"}


def merged(recipe: dict[str, Any], output: Path) -> dict[str, torch.Tensor]:
    svc_dist.merge(recipe, output, executor="inline", progress=False)
    return load_file(output / "model.safetensors")


@pytest.mark.parametrize(
    ("least", "near", "far"), [(0.0, True, True), (0.4, False, True), (1.5, False, True), (2.0, False, False)]
)
def test_what_differs_more_is_averaged_and_the_rest_is_the_bases(
    tmp_path: Path, least: float, near: bool, far: bool
) -> None:
    recipe = models(tmp_path) | {"only_where": {"relative_difference": least}}
    found = merged(recipe, tmp_path / "out")
    average = {"near": 1.5, "far": 7.5}
    for name, changed in (("near", near), ("far", far)):
        expected = BASE + torch.tensor([[0.0, average[name] if changed else 0.0], [0.0, 0.0]])
        assert torch.equal(found[f"{name}.weight"], expected)
    report = read_report(str(tmp_path / "out"))
    assert {one["tensor"]: (one["differences"], one["merged"]) for one in report.only_where} == {
        "near.weight": ([0.2, 0.4], near), "far.weight": ([1.0, 2.0], far)
    }  # fmt: skip


def test_each_expert_of_a_fused_tensor_decides_for_itself(tmp_path: Path) -> None:
    recipe = models(tmp_path, torch.bfloat16, fused=True) | {"only_where": {"relative_difference": 0.5}}
    (found,) = merged(recipe, tmp_path / "out").values()
    assert torch.equal(found[0], BASE.bfloat16())
    assert torch.equal(found[1], (BASE + torch.tensor([[0.0, 7.5], [0.0, 0.0]])).bfloat16())
    report = read_report(str(tmp_path / "out"))
    assert [(one["matrix"], one["merged"]) for one in report.only_where] == [(0, False), (1, True)]


def test_a_rule_has_its_own_condition_and_outputs_too(tmp_path: Path) -> None:
    recipe = models(tmp_path) | {
        "merge_method": "ties",
        "only_where": {"relative_difference": 0.5},
        "rules": [{"match": "near*", "only_where": "none"}],
        "outputs": [{"path": "a"}, {"path": "b", "only_where": {"relative_difference": 3}}],
    }
    svc_dist.merge(recipe, tmp_path / "out", executor="inline", progress=False)
    kept = {path: load_file(tmp_path / "out" / path / "model.safetensors") for path in "ab"}
    assert not any(torch.equal(kept[path]["near.weight"], BASE) for path in "ab")
    assert [torch.equal(kept[path]["far.weight"], BASE) for path in "ab"] == [False, True]
    by_result = {path: read_report(str(tmp_path / "out" / path)).only_where for path in "ab"}
    assert {path: [(one["tensor"], one["merged"]) for one in found] for path, found in by_result.items()} == {
        "a": [("far.weight", True)], "b": [("far.weight", False)]
    }  # fmt: skip


@pytest.mark.parametrize("keys", [{"merge_method": "tsv_m"}, {"merge_method": "task_arithmetic", "calibrate": "svc"}])
def test_spectral_methods_and_calibration_leave_the_bytes_of_what_is_near(tmp_path: Path, keys: dict[str, Any]) -> None:
    recipe = models(tmp_path) | keys
    free = merged(recipe, tmp_path / "free")
    found = merged(recipe | {"only_where": {"relative_difference": 0.5}}, tmp_path / "out")
    assert torch.equal(found["near.weight"], BASE)
    assert torch.equal(found["far.weight"], free["far.weight"])
    report = json.loads((tmp_path / "out" / "merge_report.json").read_text())
    assert [one["tensor"] for one in report["matrices"]] == ["far.weight"]


@pytest.mark.parametrize("family", ["fp8 blocks", "fp8 tensor", "int4"])
def test_of_a_quantised_base_what_is_near_keeps_codes_and_scales(tmp_path: Path, family: str) -> None:
    shapes = {f"model.layers.0.mlp.{name}_proj.weight": (64, 64) for name in NAMES}
    decoded = write_quantised(tmp_path / "base", tensors_of(0, shapes), FAMILIES[family])
    moved = {name: one.bfloat16() * (1.25 if "near" in name else 3) for name, one in decoded.items()}
    write_checkpoint(tmp_path / "one", moved)
    recipe = {"base_model": str(tmp_path / "base"), "models": [{"model": str(tmp_path / "one")}]}
    recipe |= {"merge_method": "linear", "only_where": {"relative_difference": 1.0}}
    svc_dist.merge(recipe, tmp_path / "out", executor="inline", progress=False)
    base, found = (
        {name: tensor for file in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(file).items()}
        for folder in (tmp_path / "base", tmp_path / "out")
    )
    assert set(base) == set(found)
    same = {name for name in base if torch.equal(*(one[name].view(-1).view(torch.uint8) for one in (base, found)))}
    changed = set(base) - same
    assert changed
    assert all("far_proj" in name for name in changed)
    differences = {one["tensor"]: one["differences"] for one in read_report(str(tmp_path / "out")).only_where}
    assert differences["model.layers.0.mlp.near_proj.weight"] == [pytest.approx(0.25, abs=0.01)]
    assert differences["model.layers.0.mlp.far_proj.weight"] == [pytest.approx(2, abs=0.01)]


def test_the_log_says_how_many_tensors_passed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="svc_dist"):
        merged(models(tmp_path) | {"only_where": {"relative_difference": 0.5}}, tmp_path / "out")
    said = [record.getMessage() for record in caplog.records if "only_where" in record.getMessage()]
    assert len(said) == 1
    assert said[0].startswith("only_where: 1 of 2 tensors differ enough from the base and are merged")


def test_the_condition_is_part_of_the_plan(tmp_path: Path) -> None:
    recipe = models(tmp_path)
    plans = [
        svc_dist.make_plan(recipe | ({"only_where": {"relative_difference": x}} if x else {})) for x in (None, 1, 2)
    ]
    assert len({plan.fingerprint for plan in plans}) == 3
    assert plans[1].results[0].dispositions[0].least_difference == 1.0
    assert plans[0].bytes_in == plans[1].bytes_in
    assert plans[0].units[0].flops < plans[1].units[0].flops
