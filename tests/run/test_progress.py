"""What a run says about its progress."""

from __future__ import annotations

import io
import logging
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

import svc_dist
from svc_dist.cli.streams import logs
from svc_dist.errors import RecipeError
from svc_dist.run.progress import MergeProgress, Progress
from tests.notebook.test_bar import pretend
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
    logs.set_up(logs.Format.TEXT)
    with Progress(plan, [], True):
        logging.getLogger("svc_dist").warning("a line of the log")
    drawn = terminal.getvalue()
    before_the_line = drawn[: drawn.index("a line of the log")]
    assert "━" in before_the_line  # the bar
    assert re.search(r"\x1b\[2K[^\n%]*$", before_the_line), "its line is cleared for the log"


def test_a_callback_is_told_from_nothing_to_everything(tmp_path: Path) -> None:
    recipe = recipe_data(write_llamas(tmp_path / "models"), max_shard_size="3kB")
    plan, calls = svc_dist.make_plan(recipe), list[MergeProgress]()
    svc_dist.merge(recipe, tmp_path / "out", executor="inline", on_progress=calls.append)
    units, size = len(plan.units), plan.bytes_in + plan.bytes_out
    assert calls[0] == MergeProgress(0, units, 0, size, 0.0, None)
    assert calls[-1] == MergeProgress(units, units, size, size, 1.0, 0.0)
    assert [call.units_done for call in calls] == sorted(call.units_done for call in calls)
    assert len(calls) == len(set(calls))
    assert str(calls[0]) == f"0% done: 0 of {units} units"
    calls.clear()
    svc_dist.merge(recipe, tmp_path / "out", executor="inline", on_progress=calls.append)
    assert calls == []  # it is complete


def test_a_callback_that_raises_at_the_start_leaves_no_bar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outputs = pretend(monkeypatch, SimpleNamespace(kernel=object()))
    plan = svc_dist.make_plan(recipe_data(write_llamas(tmp_path)))
    with pytest.raises(ZeroDivisionError), Progress(plan, (), True, lambda progress: 1 / 0):
        raise AssertionError("not reached")
    assert outputs.shown == []
    with pytest.raises(RecipeError, match="on_progress is True, but must be a function"):
        Progress(plan, (), False, True)  # type: ignore[arg-type]


def test_what_a_callback_raises_ends_the_merge_and_the_same_call_resumes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class EnoughError(Exception):
        pass

    def some(progress: MergeProgress) -> None:
        if progress.units_done:
            raise EnoughError

    monkeypatch.setattr("svc_dist.run.progress._CALL_EVERY", 0.0)
    recipe = recipe_data(write_llamas(tmp_path / "models"), max_shard_size="1kB")
    svc_dist.merge(recipe, tmp_path / "whole", executor="inline")
    with pytest.raises(EnoughError):
        svc_dist.merge(recipe, tmp_path / "out", executor="inline", slots=1, on_progress=some)
    stopped = svc_dist.status(tmp_path / "out")
    assert stopped.state == "failed"
    assert 0 < stopped.done < stopped.units
    summary = svc_dist.merge(recipe, tmp_path / "out", executor="inline")
    assert summary.units_resumed == stopped.done
    assert svc_dist.diff(tmp_path / "whole", tmp_path / "out").counts() == {"identical": 21}


def test_the_bar_is_drawn_in_a_notebook_and_standard_error_stays_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    outputs = pretend(monkeypatch, SimpleNamespace(kernel=object()))
    recipe = recipe_data(write_llamas(tmp_path / "models"))
    svc_dist.merge(recipe, tmp_path / "out", executor="inline", progress=True)
    (shown,) = outputs.shown
    assert shown["text/plain"].startswith("100% done: 1 of 1 unit, ")
    assert capfd.readouterr().err == ""


def test_a_detailed_log_has_a_line_for_each_unit(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    recipe = recipe_data(write_llamas(tmp_path / "models"), max_shard_size="3kB")
    plan = svc_dist.make_plan(recipe)
    logger = logging.getLogger("svc_dist")
    before, logger.propagate = logger.propagate, True
    try:
        with caplog.at_level(logging.DEBUG, logger="svc_dist"):
            svc_dist.merge(recipe, tmp_path / "out", executor="inline", device="cpu")
    finally:
        logger.propagate = before
    lines = [record.getMessage() for record in caplog.records if record.levelno == logging.DEBUG]
    assert sorted(line.split()[1] for line in lines) == sorted(unit.id for unit in plan.units)
    assert all(re.search(r" on cpu of .*: read .* s, compute .* s, write .* s; \S+\.weight", line) for line in lines)
