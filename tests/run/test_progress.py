"""What a run says about its progress."""

from __future__ import annotations

import io
import logging
import re
from pathlib import Path

import pytest

import svc_dist
from svc_dist.cli.streams import logs
from svc_dist.run.progress import Progress
from tests.support.checkpoints import recipe_data, write_llamas


def test_the_line_has_one_percentage_and_no_remaining_time_at_either_end(tmp_path: Path) -> None:
    plan = svc_dist.make_plan(recipe_data(write_llamas(tmp_path), max_shard_size="3kB"))
    progress = Progress(plan, [], False)
    assert progress.line().startswith(f"0% done: 0 of {len(plan.units)} units, 0 B of ")
    progress.count([plan.units[0].id])
    assert ", about 0:0" in progress.line()
    progress.count([unit.id for unit in plan.units[1:]])
    assert progress.line().startswith(f"100% done: {len(plan.units)} of {len(plan.units)} units")
    assert "left" not in progress.line()
    assert progress.line().count("%") == 1


def test_lines_of_the_log_stand_above_the_bar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    plan = svc_dist.make_plan(recipe_data(write_llamas(tmp_path)))
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "160")
    log = logging.getLogger("svc_dist")
    before = (log.handlers[:], log.level, log.propagate)
    logs.set_up(logs.Format.TEXT)
    try:
        with Progress(plan, [], True):
            log.warning("a line of the log")
    finally:
        log.handlers[:], level, log.propagate = before
        log.setLevel(level)
    drawn = terminal.getvalue()
    before_the_line = drawn[: drawn.index("a line of the log")]
    assert "━" in before_the_line  # the bar
    assert re.search(r"\x1b\[2K[^\n%]*$", before_the_line), "its line is cleared for the log"
