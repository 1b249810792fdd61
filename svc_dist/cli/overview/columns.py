"""Rows of text, their columns below each other."""

from __future__ import annotations

from collections.abc import Sequence

_GAP = "  "


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """The rows as lines. A column without any text is left out."""
    columns = [list(column) for column in zip(*rows, strict=True)]
    used = [column for column in columns if any(column[1:] if len(rows) > 1 else column)]
    widths = [max(map(len, column)) for column in used]
    return [
        _GAP.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in zip(*used, strict=True)
    ]
