"""The one way out for a command's words: whatever names they hold, they are harmless on a terminal."""

from __future__ import annotations

import os
import sys

import typer

from svc_dist.errors import printable_json, printable_lines

#: The colours of what is as it should be, what needs a look, and what is wrong.
OK, WARNING, WRONG = "green", "yellow", "red"


def say(text: str, *, label: str = "", colour: str | None = None, err: bool = False, end: bool = True) -> None:
    """Print text on standard output, or on standard error; ``label``: in ``colour`` before it, on a terminal."""
    typer.echo(f"{styled(label, colour)} " * bool(label) + printable_lines(text), err=err, nl=end)


def styled(text: str, colour: str | None = None, *, bold: bool = False) -> str:
    """Text in a colour, unless NO_COLOR or the terminal forbids it; ``say`` removes it where there is no terminal."""
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return text
    return typer.style(text, fg=colour, bold=bold or None)


def say_json(text: str) -> None:
    """Print JSON on standard output."""
    typer.echo(printable_json(text))


def take_back(lines: int) -> None:
    """Have what is said next replace the last lines on a terminal."""
    typer.echo(f"\x1b[{lines:d}A\x1b[J", nl=False)


def write_any_character() -> None:
    """Escape characters that the terminal's encoding lacks, instead of failing on them."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
