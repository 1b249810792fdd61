"""What a merge needs of disks and memory, and what this machine has of them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import svc_dist
from svc_dist.checks.room import free_space, largest_unit, memory_here, scratch_bytes, use_scratch
from svc_dist.plan.model import Plan
from svc_dist.storage.access import DEFAULT_ACCESS
from tests.support.checkpoints import recipe_data, write_llamas


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    recipe = recipe_data(write_llamas(tmp_path_factory.mktemp("models")), max_shard_size="3kB")
    return svc_dist.make_plan(recipe, device="cpu")


def test_a_folder_that_is_not_there_yet_has_its_disks_space(tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    assert abs(free_space(tmp_path / "a" / "b") - free) < free / 10


def test_scratch_holds_the_largest_units_that_run_in_parallel(plan: Plan) -> None:
    sizes = sorted((unit.bytes_in for unit in plan.units), reverse=True)
    assert len(sizes) > 2
    assert scratch_bytes([plan], 2) == sizes[0] + sizes[1]
    assert largest_unit([plan]) == max(unit.memory for unit in plan.units)
    assert not use_scratch([plan], DEFAULT_ACCESS, remote_output=False)


def test_a_plan_for_a_gpu_that_is_not_here_has_the_hosts_memory(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("svc_dist.checks.room.available_memory", lambda: 1000)
    assert memory_here([plan]) == (None, 1000)
