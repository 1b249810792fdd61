"""What a plan needs beside what this machine has."""

from __future__ import annotations

from pathlib import Path

import pytest

import svc_dist
from svc_dist.cli.overview import needs as module
from svc_dist.cli.overview.needs import needs, needs_lines, shortages
from svc_dist.plan.model import Plan
from svc_dist.storage.access import DEFAULT_ACCESS
from tests.support.checkpoints import recipe_data, write_llamas


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    return svc_dist.make_plan(recipe_data(write_llamas(tmp_path_factory.mktemp("models"))), device="cpu")


def test_disk_memory_and_time_stand_beside_what_is_here(plan: Plan, tmp_path: Path) -> None:
    rows = needs([plan], str(tmp_path / "new" / "out"), DEFAULT_ACCESS)
    assert [row.subject for row in rows] == ["disk", "memory", "time"]
    disk, memory, time = rows
    assert disk.needed.endswith(" for the output")
    assert disk.here.endswith(f"free in {tmp_path}/new/out")
    assert "available" in memory.here
    assert time.needed.startswith("about ")
    assert not list(shortages(rows))
    *table, note = needs_lines(rows)
    assert [line.split()[0] for line in table] == ["needed", "disk", "memory", "time"]
    assert time.here in table[-1]
    assert max(map(len, (table[-1], note))) <= 80
    assert note == "time estimated for a typical core and a disk of 1 GB/s (see measure-host)"


def test_what_is_too_little_is_said_with_what_to_do(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "free_space", lambda folder: 10)
    monkeypatch.setattr(module, "memory_here", lambda plans: (None, 10))
    disk, memory = shortages(needs([plan], None, DEFAULT_ACCESS))
    assert disk.startswith("too little disk: ")
    assert disk.endswith("10 B free in the working folder's disk; free space there, or name another OUTPUT")
    assert memory.endswith("run the merge on a machine with more memory")


def test_an_object_storage_has_no_free_space_to_compare(plan: Plan) -> None:
    rows = needs([plan], "s3://bucket/merged", DEFAULT_ACCESS)
    assert rows[0].here == "an object storage"
    assert "a link of" in str(rows[-1].note)


def test_a_plan_for_a_gpu_that_is_not_here_is_not_estimated(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "estimate_here", lambda plan, remote: None)
    assert "--cluster" in needs([plan], None, DEFAULT_ACCESS)[-1].here
    monkeypatch.setattr(module, "_UNITS", 0)
    assert "so many units" in needs([plan], None, DEFAULT_ACCESS)[-1].here
