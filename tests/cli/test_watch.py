"""Watching a merge: again while it runs, and the exit code that its last state stands for."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from svc_dist.checks.status import State, Status
from svc_dist.cli import watch as module
from svc_dist.cli.watch import watch


@pytest.mark.parametrize(
    ("last", "code"),
    [
        (Status("out", State.COMPLETE), 0),
        (Status("out", State.STOPPED, exit_code=75), 75),
        (Status("out", State.FAILED, exit_code=4, error="no"), 4),
        (Status("out", State.FAILED), 6),
    ],
)
def test_it_ends_with_the_run(
    last: Status, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(module.time, "sleep", pauses.append)
    states: Iterator[Status] = iter([Status("out", State.RUNNING), Status("out", State.RUNNING, done=1), last])
    assert watch(lambda: next(states), True, 2.5) == code
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["state"] for line in lines] == ["running", "running", str(last.state)]
    assert pauses == [2.5, 2.5]


def test_on_a_terminal_the_text_is_replaced(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module.time, "sleep", lambda _: None)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    states = iter([Status("out", State.RUNNING), Status("out", State.COMPLETE)])
    assert watch(lambda: next(states), False, 1) == 0
    running, complete = capsys.readouterr().out.split("\x1b[3A\x1b[J")
    assert running.startswith("out: running\n")
    assert complete.startswith("out: complete")


def test_it_ends_when_nobody_reads_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "is_cut_off", lambda: True)
    assert watch(lambda: Status("out", State.RUNNING), True, 3600) == 0
