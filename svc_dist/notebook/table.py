"""Light tables in HTML for notebooks: no scripts, no style sheets, no colours of their own, so that any theme fits."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

_CELL = "text-align:left;vertical-align:top;padding:.1em .9em .1em 0"
_NUMBER = "text-align:right;vertical-align:top;padding:.1em .9em .1em 0;font-variant-numeric:tabular-nums"
_MOST = 20  # rows of a table in a notebook


def block(title: str, *parts: str) -> str:
    """A title and what stands below it: tables and paragraphs; empty parts are left out."""
    return f"<div><strong>{escape(title)}</strong>{''.join(parts)}</div>"


def paragraph(text: str) -> str:
    """A paragraph; nothing for an empty text."""
    return f'<p style="margin:.3em 0;max-width:60em">{escape(text)}</p>' if text else ""


def fields(rows: Iterable[tuple[str, str]]) -> str:
    """A table of names and values. Rows without a value are left out."""
    cells = "".join(
        f'<tr><th style="{_CELL}">{escape(name)}</th><td style="{_CELL}">{escape(value)}</td></tr>'
        for name, value in rows
        if value
    )
    return f'<table style="margin:.3em 0">{cells}</table>'


def grid(head: Sequence[str], rows: Sequence[Sequence[str | int | float]]) -> str:
    """A table with a heading, numbers at the right; of many rows only the first. Nothing for no rows."""
    if not rows:
        return ""
    top = "".join(f'<th style="{_CELL}">{escape(name)}</th>' for name in head)
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows[:_MOST])
    more = paragraph(f"and {len(rows) - _MOST:,} more") if len(rows) > _MOST else ""
    return f'<table style="margin:.3em 0"><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>{more}'


def _cell(value: str | int | float) -> str:
    if isinstance(value, str):
        return f'<td style="{_CELL}">{escape(value)}</td>'
    return f'<td style="{_NUMBER}">{f"{value:,}" if isinstance(value, int) else f"{value:.3f}"}</td>'
