"""Which small matrices of their own a device merges together, and what that means for units and their memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from svc_dist.plan.costs import memory, work, workspace
from svc_dist.plan.devices.stacks import Stacks, stacked
from svc_dist.plan.make import make_plan
from svc_dist.plan.model import Plan
from svc_dist.plan.settings import Settings
from svc_dist.recipe.load import load_recipe
from tests.support.checkpoints import recipe_data, write_checkpoint

SHAPES = {"down_proj": (48, 32), "gate_proj": (32, 48), "up_proj": (32, 48)}
EXPERT = "model.layers.0.mlp.experts"


def folders(folder: Path, count: int = 4, models: int = 3, dtype: torch.dtype = torch.bfloat16) -> list[Path]:
    shapes = {f"{EXPERT}.{at}.{what}.weight": shape for at in range(count) for what, shape in SHAPES.items()}
    shapes["model.layers.0.self_attn.q_proj.weight"] = (16, 16)
    return [
        write_checkpoint(
            folder / str(at), {key: torch.full(one, float(at)).to(dtype) for key, one in shapes.items()}, 1
        )
        for at in range(models)
    ]


def planned(recipe: dict[str, Any], device: str = "cuda", precision: str = "mixed") -> Plan:
    return make_plan(load_recipe(recipe), Settings(precision, device=device))


def stacks(plan: Plan) -> list[list[str]]:
    found = Stacks(plan.dispositions, plan.settings).of(span[0] for unit in plan.units for span in plan.spans(unit))
    return [[one.name.removeprefix(f"{EXPERT}.").removesuffix("_proj.weight") for one in stack] for stack in found]


def test_matrices_of_one_shape_are_a_stack_wherever_they_stand_in_a_unit(tmp_path: Path) -> None:
    plan = planned(recipe_data(folders(tmp_path), "iso_c"))
    sides = [[f"{at}.{what}" for at in range(4) for what in ("gate", "up")], [f"{at}.down" for at in range(4)]]
    assert sorted(stacks(plan)) == sorted(sides)


def test_a_stack_has_as_many_entries_as_a_device_merges_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("svc_dist.methods.chunking.GRAIN", 3 * 32 * 48)
    plan = planned(recipe_data(folders(tmp_path), "iso_c"))
    assert [len(one) for one in stacks(plan)] == [3, 3, 3, 2]  # and one by itself


ELSEWHERE: list[tuple[dict[str, Any], dict[str, str]]] = [
    ({}, {"device": "cpu"}),
    ({}, {"precision": "float64"}),
    ({"merge_method": "star"}, {}),
    ({"merge_method": "task_arithmetic"}, {}),
    ({"rules": [{"match": "*", "only_where": {"relative_difference": 0.1}}]}, {}),
    ({"rules": [{"match": "*", "stored": "in_out"}], "merge_method": "iso_c", "calibrate": "svc"}, {}),
    ({"outputs": [{"path": "a", "parameters": {"lambda": 0.5}}, {"path": "b"}]}, {}),
]


@pytest.mark.parametrize(("keys", "settings"), ELSEWHERE, ids=str)
def test_what_a_device_does_not_merge_together_is_in_no_stack(
    tmp_path: Path, keys: dict[str, Any], settings: dict[str, str]
) -> None:
    assert stacks(planned(recipe_data(folders(tmp_path), "iso_c") | keys, **settings)) == []


def test_inputs_of_more_than_16_bits_are_in_no_stack(tmp_path: Path) -> None:
    assert stacks(planned(recipe_data(folders(tmp_path, dtype=torch.float32), "iso_c"))) == []


def test_rules_part_what_they_merge_otherwise(tmp_path: Path) -> None:
    rules = [{"match": "*.experts.1.*", "merge_method": "tsv_m"}, {"match": "*.experts.2.*", "keep": "base"}]
    plan = planned(recipe_data(folders(tmp_path), "iso_c", rules=rules))
    of = {frozenset(one) for one in stacks(plan)}
    assert of == {
        frozenset({"0.down", "3.down"}),
        frozenset({"0.gate", "0.up", "3.gate", "3.up"}),
        frozenset({"1.gate", "1.up"}),
    }


def test_the_memory_of_a_unit_is_that_of_its_largest_stack(tmp_path: Path) -> None:
    plan = planned(recipe_data(folders(tmp_path), "iso_c"))
    (unit,) = plan.units
    decided, alike = plan.dispositions(plan.tensors[0]), [one for one in plan.tensors if one.shape == (32, 48)]
    stack = stacked(alike)
    operations = work(stack, decided, 8 * 32 * 48, "mixed")
    assert unit.memory == memory(stack, decided, "mixed", "cuda") + workspace(operations, "cuda")
    assert (
        unit.memory > memory(alike[0], decided, "mixed", "cuda") + workspace(operations, "cuda") + 7 * 3 * 2 * 32 * 48
    )


def test_units_of_stacks_are_larger_and_end_where_no_other_matrix_follows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("svc_dist.checkpoint.layout.MIN_RANGE", 1)
    monkeypatch.setattr("svc_dist.plan.make.SHARES", 2)
    recipe = recipe_data(folders(tmp_path), "iso_c")
    here, there = planned(recipe, "cpu"), planned(recipe)
    assert len(here.units) == 13
    assert [len(unit.pieces) for unit in there.units] == [6, 6, 1]
    assert here.shards == there.shards
    assert [unit.end for unit in there.units][-1] == there.shards[0].size
