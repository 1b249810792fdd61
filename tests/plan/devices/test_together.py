"""Small matrices that a device merges together: how many, and what the plan counts for them."""

from __future__ import annotations

from pathlib import Path

import svc_dist
from svc_dist.plan.costs import inputs_that_stay, memory
from svc_dist.plan.devices.together import matrices_together, memory_beside
from tests.plan.devices.test_residents import models
from tests.support.checkpoints import recipe_data


def test_the_memory_of_a_device_counts_matrices_that_are_merged_together(tmp_path: Path) -> None:
    folders = models(tmp_path, (7, 40, 60), 4)
    plan = svc_dist.make_plan(recipe_data(folders, "iso_c"))
    tensor, decided = plan.tensors[0], plan.dispositions(plan.tensors[0])
    assert matrices_together(tensor, decided) == 7
    assert memory_beside(tensor, decided, "mixed") > 6 * 8 * 2 * 40 * 60
    assert inputs_that_stay(tensor, decided, "mixed") == 4
    here, there = (memory(tensor, decided, "mixed", device) for device in ("cpu", "cuda"))
    assert there == here + 4 * 2 * 7 * 40 * 60 + memory_beside(tensor, decided, "mixed")


def test_methods_without_a_form_for_several_take_one_after_another(tmp_path: Path) -> None:
    plan = svc_dist.make_plan(recipe_data(models(tmp_path, (7, 40, 60), 4), "star"))
    assert matrices_together(plan.tensors[0], plan.dispositions(plan.tensors[0])) == 1
    assert memory_beside(plan.tensors[0], plan.dispositions(plan.tensors[0]), "mixed") == 0
