"""The same command from cron, again and again: it resumes, stays out of a live run's way, and finds it done."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from svc_dist.errors import ExitCode
from tests.support.checkpoints import write_llamas, write_recipe
from tests.support.command import environment
from tests.support.forked import Forked
from tests.support.ray_cluster import receipts


def test_the_same_command_every_hour(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    models = write_llamas(tmp_path / "models", experts=2, layers=10, hidden=256, intermediate=512, vocabulary=500)
    recipe = write_recipe(tmp_path / "recipe.yaml", models, calibrate="svc", max_shard_size="300KB")
    output = tmp_path / "out"
    arguments = ("merge", recipe, output, "--executor", "inline", "--log-format", "json")

    def start() -> Forked:
        """As cron does: without a terminal, without input."""
        process = Forked(arguments, environment(tmp_path / "home"))
        request.addfinalizer(process.close)
        return process

    def ended(process: Forked) -> tuple[int, list[dict[str, Any]]]:
        out, said = process.communicate(timeout=240)
        assert out == ""
        return process.returncode, [json.loads(line) for line in said.splitlines()]

    first = start()
    while not receipts(output):
        assert first.poll() is None
        time.sleep(0.01)
    first.send_signal(signal.SIGSTOP)  # alive, but it leaves units for the start after it
    code, lines = ended(start())
    assert code == ExitCode.LOCKED
    assert lines[-1]["exit_code"] == ExitCode.LOCKED
    first.kill()
    first.communicate()
    code, lines = ended(start())
    assert code == ExitCode.DONE
    assert any("resuming: " in line["message"] for line in lines)
    made = json.loads((output / "merge_report.json").read_text())
    assert made["last_start"]["units_resumed"] > 0
    assert made["last_start"]["units"] > 0
    assert made["last_start"]["units"] + made["last_start"]["units_resumed"] == lines[-1]["units"]
    assert made["last_start"]["gigabytes_per_second"] > 0
    assert made["last_start"]["attempts"] == {}
    assert set(made["unit_seconds"]) == {"read", "compute", "write"}
    before = {file.name: file.stat().st_mtime_ns for file in output.iterdir()}
    code, lines = ended(start())
    assert code == ExitCode.DONE
    assert lines[-1]["units_resumed"] == lines[-1]["units"]
    assert {file.name: file.stat().st_mtime_ns for file in output.iterdir()} == before
