"""The progress of a run, read from its folder alone."""

from __future__ import annotations

import json
import os
import re
import socket
import time
from dataclasses import asdict
from pathlib import Path

import pytest
from typer.testing import CliRunner

import svc_dist
from svc_dist.checks.status import read_status
from svc_dist.cli.app import app
from svc_dist.errors import DrainedError, ExitCode, OutputError
from svc_dist.run_folder.output import Output
from svc_dist.run_folder.report import read_report
from svc_dist.run_folder.starts.record import START_FILE, StartRecord
from svc_dist.run_folder.starts.run_id import RUN_ID
from tests.support.checkpoints import recipe_data, write_llamas, write_recipe
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
    assert status.state == "failed", "an error of no documented kind ended it"
    assert (status.exit_code, status.host, status.run) == (ExitCode.INTERNAL, socket.gethostname(), RUN_ID)
    assert status.error == "StoppedError: "
    assert status.started is not None
    assert status.updated is not None
    assert status.started <= status.updated
    assert status.eta_seconds is None
    assert "run the same command again to resume" in status.text()
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
    assert (status.state, status.host, status.pid) == ("running", socket.gethostname(), os.getpid())
    assert status.failed == {}
    assert status.text().startswith(f"{output}: running on {socket.gethostname()}\n")


def test_a_run_that_was_asked_to_stop_is_stopped(recipe: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    with pytest.raises(DrainedError):
        svc_dist.merge(recipe, output, executor="inline", device="cpu", max_runtime=0.0)
    status = read_status(str(output))
    assert (status.state, status.exit_code, status.failed) == ("stopped", ExitCode.TRY_AGAIN, {})
    assert ": stopped; run the same command again to resume\n" in status.text()


def test_a_run_that_was_killed_is_stopped_and_one_that_advances_says_how_long_it_takes(
    recipe: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    stop_merge(recipe, output, 2)
    storage = Output(str(output)).journal.storage
    now = time.time()
    record = StartRecord("r1", "elsewhere", 7, now - 60, now - 10, units_done=2, eta_seconds=100.0)
    storage.put(START_FILE, json.dumps(asdict(record)).encode())
    assert read_status(str(output)).state == "stopped"
    assert read_status(str(output)).eta_seconds is None
    with Output(str(output)).lock():
        status = read_status(str(output))
    assert (status.state, status.run, status.host, status.pid) == ("running", "r1", "elsewhere", 7)
    assert status.eta_seconds == pytest.approx(90, abs=5)
    assert re.search(r"about 1:(2|3)\d left", status.text())


def test_a_finished_merge_is_complete_with_all_its_counts(recipe: Path, tmp_path: Path) -> None:
    svc_dist.merge(recipe, tmp_path / "out", executor="inline", device="cpu")
    status = read_status(str(tmp_path / "out"))
    report = read_report(str(tmp_path / "out"))
    units = len(report.ranges)
    assert (status.state, status.units, status.done, status.left) == ("complete", units, units, 0)
    assert status.bytes_out == status.bytes_done == report.bytes_out > 0
    assert (status.work_share, status.eta_seconds, status.exit_code) == (1.0, 0.0, 0)
    assert (status.run, status.host, status.updated) == (RUN_ID, socket.gethostname(), report.finished)
    assert status.started is not None
    assert status.started <= report.finished
    assert status.text().startswith(f"{tmp_path / 'out'}: complete, {units} units, ")
    assert not (tmp_path / "out" / ".svc_dist").exists()


def test_several_results_are_complete_together(recipe: Path, tmp_path: Path) -> None:
    models = write_llamas(tmp_path / "models2")
    data = recipe_data(models, outputs=[{"path": "a"}, {"path": "b", "parameters": {"lambda": 0.5}}])
    svc_dist.merge(data, tmp_path / "out", executor="inline", device="cpu")
    status = read_status(str(tmp_path / "out"))
    assert (status.state, status.units) == ("complete", len(read_report(str(tmp_path / "out" / "b")).ranges))


def test_the_command_watches_until_the_merge_runs_no_longer(recipe: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    stop_merge(recipe, output, 1)
    watched = ["status", str(output), "--watch", "--json"]
    seen = CliRunner().invoke(app, watched)
    assert (seen.exit_code, json.loads(seen.stdout)["state"]) == (ExitCode.INTERNAL, "failed")
    svc_dist.merge(recipe, output, executor="inline", device="cpu")
    seen = CliRunner().invoke(app, watched)
    assert (seen.exit_code, json.loads(seen.stdout)["state"]) == (0, "complete")


def test_a_folder_without_a_merge_has_no_status(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="holds no merge"):
        read_status(str(tmp_path))
