"""What libraries write to standard error themselves, such as Ray's C++ code, as lines of a JSON log."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator

from svc_dist.errors import printable

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_END = b"\0end of the stray lines\n"
_STANDARD_ERROR = 2
_WAIT = 5.0  # seconds for the last lines


@contextlib.contextmanager
def stray_lines_logged(format_record: Callable[[logging.LogRecord], str]) -> Iterator[None]:
    """Pass lines of the JSON log on to standard error meanwhile, and every other line as an object of that log.

    Also those that code outside of Python writes, and that of child processes.
    """
    with contextlib.suppress(OSError):  # lines that the log could not take before
        sys.stderr.flush()
    original = os.dup(_STANDARD_ERROR)
    reading, writing = os.pipe()
    ended = threading.Event()

    def pass_on() -> None:
        with os.fdopen(reading, "rb") as lines:
            while line := lines.readline():
                text = line.removesuffix(_END)
                if text.strip():
                    entry = text.rstrip(b"\n") + b"\n" if _is_ours(text) else _wrapped(text, format_record)
                    with contextlib.suppress(OSError):
                        _write(original, entry)
                if text != line:
                    ended.set()  # not before its text is written; a child process may still write
        os.close(original)

    thread = threading.Thread(target=pass_on, name="stray-lines", daemon=True)
    os.dup2(writing, _STANDARD_ERROR)
    thread.start()
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            sys.stderr.flush()
        os.dup2(original, _STANDARD_ERROR)  # before the end: what comes after it might not be read any more
        _write(writing, _END)
        os.close(writing)
        ended.wait(_WAIT)


def _is_ours(line: bytes) -> bool:
    if not line.startswith(b"{"):
        return False
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return isinstance(entry, dict) and {"time", "level", "message"} <= entry.keys()


def _wrapped(line: bytes, format_record: Callable[[logging.LogRecord], str]) -> bytes:
    text = printable(_COLOURS.sub("", line.decode(errors="replace")).strip())
    record = logging.LogRecord("svc_dist", logging.WARNING, "", 0, text, None, None)
    record.fields = {"by": "a library"}
    return format_record(record).encode() + b"\n"


def _write(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]
