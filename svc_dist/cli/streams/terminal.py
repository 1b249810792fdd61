"""The one way out for a command's words: whatever names they hold, they are harmless on a terminal.

Words that cannot be written (a full disk, a reader that is gone) end no command before its work is done.
"""

from __future__ import annotations

import os
import sys

import typer

from svc_dist.errors import StorageError, printable_json, printable_lines

#: The colours of what is as it should be, what needs a look, and what is wrong.
OK, WARNING, WRONG = "green", "yellow", "red"
_lost: list[OSError] = []  # why standard output takes no more; nothing is written there after that


def say(text: str, *, label: str = "", colour: str | None = None, err: bool = False, end: bool = True) -> None:
    """Print text on standard output, or on standard error; ``label``: in ``colour`` before it, on a terminal."""
    _write(f"{styled(label, colour)} " * bool(label) + printable_lines(text), err=err, end=end)


def tell(text: str) -> None:
    """Print on standard output what a command did; where that cannot be written, what it did still stands."""
    if not is_cut_off():
        say(text)
        _lost.clear()


def is_cut_off() -> bool:
    """Whether standard output takes no more."""
    return bool(_lost)


def require_output() -> None:
    """Raise StorageError if some of a command's output was lost, unless its reader closed it (as ``head`` does)."""
    if _lost and not isinstance(_lost[0], BrokenPipeError):
        raise StorageError(f"cannot write standard output: {_lost[0].strerror}", "write it elsewhere, or make room")


def styled(text: str, colour: str | None = None, *, bold: bool = False) -> str:
    """Text in a colour, unless NO_COLOR or the terminal forbids it; ``say`` removes it where there is no terminal."""
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return text
    return typer.style(text, fg=colour, bold=bold or None)


def say_json(text: str) -> None:
    """Print JSON on standard output."""
    _write(printable_json(text))


def take_back(lines: int) -> None:
    """Have what is said next replace the last lines on a terminal."""
    _write(f"\x1b[{lines:d}A\x1b[J", end=False)


def write_any_character() -> None:
    """Escape characters that the terminal's encoding lacks, instead of failing on them."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _write(text: str, err: bool = False, end: bool = True) -> None:
    if is_cut_off() and not err:
        return
    try:
        typer.echo(text, err=err, nl=end)
    except OSError as error:
        if not err:
            _lost.append(error)
