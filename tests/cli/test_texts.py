"""What ``plan`` and ``merge`` print: each tensor once with its reason, counts that agree, values as YAML has them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import svc_dist
from svc_dist.cli.texts import merge_line, plan_lines
from svc_dist.plan.model import Plan
from svc_dist.run.session import MergeSummary
from tests.support.checkpoints import recipe_data, write_llamas

SUMMARY = MergeSummary(
    output="out", fingerprint="f", tensors=1, shards=1, units=3, units_resumed=0, retries=0, bytes_in=10,
    bytes_out=2_000_000, seconds=1.25, executor="inline", precision="mixed", warnings=(),
)  # fmt: skip


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_llamas(tmp_path_factory.mktemp("models"))


def planned(models: list[Path], **keys: Any) -> tuple[Plan, list[str]]:
    plan = svc_dist.make_plan(recipe_data(models, **keys), device="cpu")
    return plan, list(plan_lines(plan))


def test_every_tensor_is_counted_once_with_what_becomes_of_it(models: list[Path]) -> None:
    plan, lines = planned(
        models, calibrate={"method": "svc", "alpha": 0.5}, rules=[{"match": "lm_head*", "keep": "base"}],
        parameters={"weight": 0.3},
    )  # fmt: skip
    counts = [int(line.split()[0]) for line in lines if line.split()[1:2] in (["tensor"], ["tensors"])]
    assert sum(counts) == len(plan.tensors)
    assert any(
        "merged by task_arithmetic (weight 0.3" in line and "calibrated by svc (alpha 0.5, side left)" in line
        for line in lines
    )
    assert any(line.startswith("1 tensor copied; ") for line in lines)
    assert "    lm_head.weight" in lines
    assert f"fingerprint {plan.fingerprint[:16]}" in lines
    assert f"merges 2 experts into the base {models[0]}" in lines


def test_units_that_use_no_gpu_are_counted_where_there_is_one(models: list[Path]) -> None:
    recipe = recipe_data(models, calibrate="svc", max_shard_size="3KB")
    plan = svc_dist.make_plan(recipe, device="cuda")
    matrices = {number for number, tensor in enumerate(plan.tensors) if plan.dispositions(tensor)[0].calibration}
    light = sum(not matrices & {number for number, _, _ in unit.pieces} for unit in plan.units)
    assert 0 < light < len(plan.units)
    said = [line for line in plan_lines(plan) if " on cores, not on a GPU: " in line]
    assert [line.split(" units ")[0] for line in said] == [f"computes {light} of {len(plan.units)}"]
    assert not [line for line in plan_lines(svc_dist.make_plan(recipe, device="cpu")) if " on cores" in line]


def test_several_calibrations_are_listed_in_order(models: list[Path]) -> None:
    plan, lines = planned(models, calibrate=["svc", "magic"])
    listed = "calibrated by svc (alpha 0.5, side left), then by magic (limit none); "
    assert any(listed in line for line in lines)
    assert {"svc", "magic"} <= plan.methods.keys(), "the fingerprint holds the version of each"
    assert plan.fingerprint != planned(models, calibrate=["magic", "svc"])[0].fingerprint
    alone = [planned(models, calibrate=given)[0].results for given in ("svc", ["svc"])]
    assert alone[0] == alone[1], "a list of one is that one"


def test_several_outputs_have_their_lists_each(models: list[Path]) -> None:
    _, lines = planned(models, outputs=[{"path": "half", "lambda": 0.5}, {"path": "whole"}])
    half, whole = lines.index("output half:"), lines.index("output whole:")
    assert "lambda 0.5" in lines[half + 1]
    assert "lambda 0.5" not in lines[whole + 1]


def test_sidecars_are_listed_with_what_changes_in_them(models: list[Path]) -> None:
    _, lines = planned(models, dtype="float32")
    assert f"sidecars from {models[0]}: config.json (with the recipe's dtype)" in lines


def test_the_line_of_a_merge_counts_in_the_singular_too() -> None:
    assert merge_line(SUMMARY) == "out: 1 tensor in 1 shard, 2.00 MB, verified, 1.2 s"
    resumed = merge_line(replace(SUMMARY, units_resumed=2, tensors=1234))
    assert resumed == "out: 1,234 tensors in 1 shard, 2.00 MB, verified, 1.2 s; 2 of 3 units came from earlier runs"


def test_a_condition_stands_beside_the_method(models: list[Path]) -> None:
    _, lines = planned(models, only_where={"relative_difference": 0.25})
    merged = [line for line in lines if " merged by " in line]
    assert merged
    assert all("only where the relative difference from the base exceeds 0.25; the recipe" in line for line in merged)


def test_many_names_that_are_left_out_for_one_reason_are_one_line(models: list[Path]) -> None:
    plan, lines = planned(models, rules=[{"match": "*mlp*", "keep": "none"}, {"match": "*norm.weight", "keep": "none"}])
    said = [line for line in lines if line.startswith("not written")]
    many = sum("mlp" in name for name, _ in plan.not_written)
    assert many > 3
    assert f"not written: model.layers.0.mlp.down_proj.weight and {many - 1} more; left out by rules[0]" in said
