"""The progress of a run, read from its folder alone."""

from __future__ import annotations

from pathlib import Path

import pytest

import svc_dist
from svc_dist.checks.status import Status, read_status
from svc_dist.errors import OutputError
from svc_dist.run_folder.output import Output
from tests.support.checkpoints import write_llamas, write_recipe
from tests.support.stopped import stop_merge


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    return write_recipe(tmp_path / "r.yaml", write_llamas(tmp_path / "models"), max_shard_size="4kB")


def test_a_stopped_run_says_what_is_done_and_what_is_left(recipe: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    stop_merge(recipe, output, 2)
    status = read_status(str(output))
    plan = Output(str(output)).journal.plan()
    assert plan is not None
    assert status.state == "stopped; run the same command again to resume"
    assert (status.units, status.done, status.left) == (len(plan.units), 2, len(plan.units) - 2)
    assert status.bytes_out == plan.bytes_out
    assert 0 < status.bytes_done < plan.bytes_out
    assert 0 < status.work_share < 1
    assert f"units: 2 of {len(plan.units)} done" in status.text()


def test_a_run_is_running_while_its_lock_is_held(recipe: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    stop_merge(recipe, output, 1)
    Output(str(output)).journal.record_failures(
        {"unit 000001": {"error": "no", "attempts": 3, "node": "n1", "device": "cpu", "tensors": ["a", "b"]}}
    )
    assert "failed: unit 000001 (a and 1 more) on n1 (cpu), 3 attempts: no" in read_status(str(output)).text()
    with Output(str(output)).lock():
        status = read_status(str(output))
    assert status.state == "running"
    assert status.failed == {}


def test_a_finished_merge_is_complete(recipe: Path, tmp_path: Path) -> None:
    svc_dist.merge(recipe, tmp_path / "out", executor="inline", device="cpu")
    assert read_status(str(tmp_path / "out")) == Status(str(tmp_path / "out"), "complete")
    assert read_status(str(tmp_path / "out")).text() == f"{tmp_path / 'out'}: complete"


def test_a_folder_without_a_merge_has_no_status(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="holds no merge"):
        read_status(str(tmp_path))
