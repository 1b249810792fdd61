"""What a planned tensor costs: additive over its elements, and as its result's method, calibration and factors say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import svc_dist
from svc_dist.methods.registry import CALIBRATIONS, METHODS
from svc_dist.plan.costs import memory, takes_matrices, work
from svc_dist.plan.model import Plan
from svc_dist.plan.tensor import PlannedTensor
from tests.support.checkpoints import recipe_data, write_checkpoint

MATRIX, NORM, BATCH = "model.layers.0.mlp.up_proj.weight", "model.norm.weight", "model.layers.0.mlp.experts.gate_up"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("models")
    tensors = {MATRIX: torch.zeros(48, 24), NORM: torch.zeros(24), BATCH: torch.zeros(3, 20, 24)}
    return [write_checkpoint(folder / name, {n: t + i for n, t in tensors.items()}, shards=1)
            for i, name in enumerate(("base", "one", "two"))]  # fmt: skip


def planned(models: list[Path], name: str, method: str, **keys: Any) -> tuple[Plan, PlannedTensor]:
    plan = svc_dist.make_plan(recipe_data(models, method, **keys))
    return plan, next(tensor for tensor in plan.tensors if tensor.name == name)


def test_elements_add_up_and_a_copied_tensor_costs_nothing(models: list[Path]) -> None:
    plan, tensor = planned(models, NORM, "task_arithmetic")
    dispositions = plan.dispositions(tensor)
    parts = [work(tensor, dispositions, elements, "mixed").flops for elements in (10, 14, 24)]
    assert parts[0] + parts[1] == pytest.approx(parts[2])
    assert parts[2] > 0
    plan, tensor = planned(models, NORM, "task_arithmetic", rules=[{"match": NORM, "keep": "base"}])
    assert work(tensor, plan.dispositions(tensor), 24, "mixed").flops == 0


@pytest.mark.parametrize("method", ["swudi", "tsv_m"])
def test_a_matrix_costs_what_its_method_and_calibration_say(models: list[Path], method: str) -> None:
    plan, tensor = planned(models, MATRIX, method, calibrate="svc")
    expected = METHODS[method].work(48, 24, 2, "mixed") + CALIBRATIONS["svc"].work(48, 24, 2, "mixed")
    assert work(tensor, plan.dispositions(tensor), 48 * 24, "mixed") == expected
    plan, tensor = planned(models, BATCH, method)
    one = METHODS[method].work(20, 24, 2, "mixed").flops
    assert work(tensor, plan.dispositions(tensor), 3 * 20 * 24, "mixed").flops == pytest.approx(3 * one)


def test_only_spectral_methods_and_calibrations_take_whole_matrices(models: list[Path]) -> None:
    for name, method, keys, expected in [
        (MATRIX, "task_arithmetic", {}, False), (MATRIX, "task_arithmetic", {"calibrate": "svc"}, True),
        (MATRIX, "swudi", {}, True), (NORM, "swudi", {"calibrate": "svc"}, False),
    ]:  # fmt: skip
        plan, tensor = planned(models, name, method, **keys)
        assert takes_matrices(tensor, plan.dispositions(tensor)) is expected


def test_more_results_of_a_matrix_cost_less_than_merges_of_their_own(models: list[Path]) -> None:
    outputs = [{"path": str(number), "lambda": 0.1 * number} for number in (1, 2, 3)]
    alone, tensor = planned(models, MATRIX, "swudi")
    single = alone.dispositions(tensor)
    several, tensor = planned(models, MATRIX, "swudi", outputs=outputs)
    one = work(tensor, single, 48 * 24, "mixed").flops
    assert one < work(tensor, several.dispositions(tensor), 48 * 24, "mixed").flops < 3 * one
    assert memory(tensor, several.dispositions(tensor), "mixed") == memory(tensor, single, "mixed") + 3 * 8 * 48 * 24
    assert memory(tensor, single, "mixed") < memory(tensor, single, "float64")
