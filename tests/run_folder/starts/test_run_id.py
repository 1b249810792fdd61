"""The id of a run: that of the platform where it gives one, else a new one for each process."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

CODE = "from svc_dist.run_folder.starts.run_id import RUN_ID; print(RUN_ID)"


def run_id(**environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", CODE], capture_output=True, text=True, env={**os.environ, **environment}, check=True
    )
    return done.stdout.strip()


def test_each_process_has_its_own() -> None:
    first, second = run_id(SVC_DIST_RUN_ID=""), run_id(SVC_DIST_RUN_ID="")
    assert first != second
    assert len(first) == len(second) == 8


@pytest.mark.parametrize(("given", "taken"), [("nightly-2026.11:29/7", True), ("two words", False), ("x" * 65, False)])
def test_a_platform_may_give_one_that_a_log_can_hold(given: str, taken: bool) -> None:
    assert (run_id(SVC_DIST_RUN_ID=given) == given) is taken
