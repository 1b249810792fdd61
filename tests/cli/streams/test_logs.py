"""The log of a command: lines of text or of JSON on standard error, and what libraries print goes there too."""

from __future__ import annotations

import io
import json
import logging
import re
from datetime import datetime

import pytest

from svc_dist.cli.streams import logs
from svc_dist.cli.streams.logs import Format
from svc_dist.run_folder.starts.run_id import RUN_ID

LOG = logging.getLogger("svc_dist")


def test_json_lines_have_time_level_message_and_fields(capsys: pytest.CaptureFixture[str]) -> None:
    logs.set_up(Format.JSON)
    assert logs.is_json()
    LOG.info("unit %s done", "000001", extra={"fields": {"units": 3, "message": "its own"}})
    LOG.debug("too fine")
    (line,) = capsys.readouterr().err.splitlines()
    entry = json.loads(line)
    assert datetime.strptime(entry.pop("time"), "%Y-%m-%dT%H:%M:%SZ")
    assert entry == {"level": "info", "run": RUN_ID, "message": "its own", "units": 3}


def test_an_exception_is_one_line_with_its_trace(capsys: pytest.CaptureFixture[str]) -> None:
    logs.set_up(Format.JSON)
    try:
        raise ValueError("two\nlines")
    except ValueError:
        LOG.exception("failed")
    (line,) = capsys.readouterr().err.splitlines()
    assert "ValueError: two\nlines" in json.loads(line)["trace"]
    assert json.loads(line)["level"] == "error"


def test_text_is_time_run_and_message_and_is_set_up_once(capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        logs.set_up(Format.TEXT)
    assert not logs.is_json()
    LOG.warning("careful")
    said = capsys.readouterr()
    assert said.out == ""
    assert re.fullmatch(rf"\d{{4}}-\d\d-\d\dT\d\d:\d\d:\d\dZ {RUN_ID} careful\n", said.err)


def test_what_is_printed_meanwhile_goes_to_the_log_without_colours(capsys: pytest.CaptureFixture[str]) -> None:
    logs.set_up(Format.JSON)
    with logs.prints_logged():
        print("\x1b[36m(worker)\x1b[0m died\n\nand again")
    print("result")
    said = capsys.readouterr()
    assert said.out == "result\n"
    entries = [json.loads(line) for line in said.err.splitlines()]
    assert [(entry["level"], entry["message"]) for entry in entries] == [
        ("warning", "(worker) died"), ("warning", "and again")
    ]  # fmt: skip


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("level", "text", "shown"),
    [
        (logging.WARNING, "warning: no GPU", "\x1b[33mwarning:\x1b[0m no GPU"),
        (logging.WARNING, "again in 3 s", "\x1b[33magain in 3 s\x1b[0m"),
        (logging.ERROR, "error: no space", "\x1b[31merror:\x1b[0m no space"),
        (logging.INFO, "10% done", "10% done"),
    ],
)
def test_warnings_are_in_colour_on_a_terminal(
    level: int, text: str, shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    logs.set_up(Format.TEXT)
    LOG.log(level, text)
    assert terminal.getvalue().split(" ", 2)[2] == f"{shown}\n"
