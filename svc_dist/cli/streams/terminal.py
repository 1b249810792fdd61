"""The one way out for a command's words: whatever names they hold, they are harmless on a terminal."""

from __future__ import annotations

import sys

import typer

from svc_dist.errors import printable_json, printable_lines


def say(text: str, *, label: str = "", colour: str | None = None, err: bool = False, end: bool = True) -> None:
    """Print text on standard output, or on standard error; ``label``: in ``colour`` before it."""
    typer.echo(f"{typer.style(label, fg=colour)} " * bool(label) + printable_lines(text), err=err, nl=end)


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
