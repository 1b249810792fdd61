"""A line of the shell ends with whatever it started, which has time to clean up."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from svc_dist.run.signals.shell import run_line
from tests.support.ended import wait_until_ended


def run(line: str, timeout: float | None = None) -> tuple[int | None, bytes]:
    with tempfile.TemporaryFile() as out:
        code = run_line(line, {"NAME": "value"}, out, out, timeout)
        out.seek(0)
        return code, out.read()


def test_a_line_has_its_variables_and_an_exit_code() -> None:
    assert run("echo $NAME; exit 3") == (3, b"value\n")


def test_what_a_line_started_has_time_to_clean_up(tmp_path: Path) -> None:
    trap = f'trap "sleep 0.3; touch {tmp_path}/clean; exit" TERM'
    child = f"sh -c '{trap}; touch {tmp_path}/up; while :; do sleep 0.05; done'"
    began = time.monotonic()
    code, _ = run(f"cd /; {child} & echo $! > {tmp_path}/pid; wait", timeout=1.0)
    assert code is None
    assert time.monotonic() - began < 9
    assert (tmp_path / "up").exists()
    wait_until_ended(int((tmp_path / "pid").read_text()))
    assert (tmp_path / "clean").exists()


def test_what_is_left_running_ends_with_its_line(tmp_path: Path) -> None:
    assert run(f"sleep 60 & echo $! > {tmp_path}/pid")[0] == 0
    wait_until_ended(int((tmp_path / "pid").read_text()))
