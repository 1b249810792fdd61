"""Inputs stay on a device while together they take no more memory than the merge itself: that is in the plan."""

from __future__ import annotations

from pathlib import Path

import torch

import svc_dist
from svc_dist.linalg.devices.grain import GRAIN
from svc_dist.plan.costs import inputs_that_stay, memory
from svc_dist.plan.devices.residents import sizes_that_fit
from tests.support.checkpoints import recipe_data, write_checkpoint

NAME = "model.layers.0.mlp.up_proj.weight"


def models(folder: Path, shape: tuple[int, ...], count: int) -> list[Path]:
    return [write_checkpoint(folder / str(at), {NAME: torch.full(shape, float(at)).half()}, 1) for at in range(count)]


def test_as_many_inputs_stay_as_the_merge_takes_memory(tmp_path: Path) -> None:
    plan = svc_dist.make_plan(recipe_data(models(tmp_path, (40, 60), 6), "iso_c"))
    tensor, one = plan.tensors[0], 2 * 40 * 60
    assert sizes_that_fit(tensor, 6 * one) == [one] * 6
    assert sizes_that_fit(tensor, 3 * one + 1) == [one] * 3
    assert sizes_that_fit(tensor, one - 1) == []


def test_the_memory_of_a_device_counts_the_inputs_that_stay(tmp_path: Path) -> None:
    plan = svc_dist.make_plan(recipe_data(models(tmp_path, (40, 60), 4), "iso_c"))
    tensor, decided = plan.tensors[0], plan.dispositions(plan.tensors[0])
    assert inputs_that_stay(tensor, decided, "mixed") == 4
    here, there = (memory(tensor, decided, "mixed", device) for device in ("cpu", "cuda"))
    assert there == here + 4 * 2 * 40 * 60


def test_small_matrices_that_reach_a_device_together_are_counted_together(tmp_path: Path) -> None:
    plan = svc_dist.make_plan(recipe_data(models(tmp_path, (7, 40, 60), 3), "iso_c"))
    tensor = plan.tensors[0]
    assert sizes_that_fit(tensor, 1 << 40) == [2 * 7 * 40 * 60] * 3
    assert tensor.batch is not None
    assert GRAIN >= 7 * 40 * 60
