"""Which known name an unknown one was meant to be, where it is a typo."""

from __future__ import annotations

import re
from collections.abc import Iterable

_APART = re.compile(r"[-_ ]")


def meant(name: str, known: Iterable[str]) -> str | None:
    """The known name that ``name`` misspells: another case or separator, or one or two letters off.

    Names of less than four letters, and short ones that differ by two, are not taken for typos: ``name`` is not
    ``rename``.
    """
    best: tuple[int, str] | None = None
    plain = _plain(name)
    for other in known:
        if other == name:
            continue
        target = _plain(other)
        shorter = min(len(plain), len(target))
        allowed = 0 if shorter < 4 else 1 if shorter < 7 else 2
        if abs(len(plain) - len(target)) <= allowed:
            slips = _slips(plain, target)
            if slips <= allowed and (best is None or slips < best[0]):
                best = slips, other
    return None if best is None else best[1]


def _plain(name: str) -> str:
    return _APART.sub("", name.casefold())


def _slips(one: str, other: str) -> int:
    """How many letters are missing, too many, wrong or swapped with their neighbour."""
    before: list[int] = []
    last = list(range(len(other) + 1))
    for row, letter in enumerate(one, 1):
        line = [row]
        for column, target in enumerate(other, 1):
            least = min(last[column] + 1, line[-1] + 1, last[column - 1] + (letter != target))
            if row > 1 and column > 1 and letter == other[column - 2] and one[row - 2] == target:
                least = min(least, before[column - 2] + 1)
            line.append(least)
        before, last = last, line
    return last[-1]
