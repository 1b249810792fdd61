"""A command's log on standard error: lines of text, or JSON objects."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import re
import sys
import time
from collections.abc import Iterator
from enum import StrEnum
from typing import Any

from svc_dist.cli.streams.stray_lines import stray_lines_logged
from svc_dist.cli.streams.terminal import WARNING, WRONG, styled
from svc_dist.run_folder.starts.run_id import RUN_ID

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_LABEL = re.compile(r"(?:warning|error):")
_log = logging.getLogger("svc_dist")


class Format(StrEnum):
    """The format of log lines on standard error."""

    TEXT = "text"
    JSON = "json"


class JsonLines(logging.Formatter):
    """One JSON object a line: time, level, the id of the run, message, and the record's ``fields``."""

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, Any] = {
            "time": _utc(record),
            "level": record.levelname.lower(),
            "run": RUN_ID,
            "message": record.getMessage(),
        }
        if record.exc_info:
            entry["trace"] = self.formatException(record.exc_info)
        return json.dumps(entry | getattr(record, "fields", {}))


class TextLines(logging.Formatter):
    """A line of text: time, the id of the run, message; in colour on a terminal where it warns."""

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        if record.levelno >= logging.WARNING and sys.stderr.isatty():
            label = _LABEL.match(text)
            end = len(text) if label is None else label.end()
            text = styled(text[:end], WRONG if record.levelno >= logging.ERROR else WARNING) + text[end:]
        return f"{_utc(record)} {RUN_ID} {text}"


class _Lines(logging.Handler):
    """Writes to standard error as it is at that time: while a bar is shown, lines go above it."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            sys.stderr.write(self.format(record) + "\n")
            sys.stderr.flush()
        except Exception:  # as every handler of the standard library: a line that is lost stops no merge
            self.handleError(record)


def _utc(record: logging.LogRecord) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.created))


def set_up(log_format: Format, level: int = logging.INFO) -> None:
    """Have the package's log, from this level on, go to standard error."""
    handler = _Lines()
    handler.setFormatter(JsonLines() if log_format == Format.JSON else TextLines())
    _log.handlers[:] = [handler]
    _log.setLevel(level)
    _log.propagate = False


def is_json() -> bool:
    """Whether lines are JSON objects."""
    return any(isinstance(handler.formatter, JsonLines) for handler in _log.handlers)


@contextlib.contextmanager
def prints_logged() -> Iterator[None]:
    """Log what libraries print meanwhile: Ray prints about workers that died, and in a JSON log its C++ code must not
    write lines of its own."""
    with contextlib.ExitStack() as stack:
        if is_json():
            stack.enter_context(stray_lines_logged(JsonLines().format))
        stack.enter_context(contextlib.redirect_stdout(_ToLog()))
        yield


class _ToLog(io.TextIOBase):
    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        for line in _COLOURS.sub("", text).splitlines():
            if line.strip():
                _log.warning(line)
        return len(text)
