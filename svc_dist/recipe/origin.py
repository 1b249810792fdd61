"""The lines of a recipe's keys, for messages."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

#: The path to a key: names of keys, and positions in lists.
KeyPath = tuple[str | int, ...]


@dataclass(frozen=True)
class Origin:
    """The name of a recipe (of its file, where it has one) and the line (from 1) of each of its keys.

    ``overlay``: the path of a mapping whose keys override the recipe's, such as an entry of ``outputs``.
    """

    name: str = "recipe"
    lines: Mapping[KeyPath, int] = field(default_factory=dict, repr=False)
    overlay: KeyPath = ()

    def at(self, *path: str | int) -> str:
        """``recipe.yaml:12 (rules[0].match)``: a key, with its line or that of the nearest key around it."""
        inner = (*self.overlay, *(path[1:] if path == ("parameters", "lambda") else path))
        overrides = self._line(inner, len(self.overlay) + 1) if self.overlay else None
        line = overrides or self._line(path, 1)
        shown = inner if overrides else path
        key = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in shown).lstrip(".")
        return (f"{self.name}:{line}" if line else self.name) + (f" ({key})" if key else "")

    def _line(self, path: KeyPath, shortest: int) -> int | None:
        """The line of the longest known prefix of ``path`` with at least ``shortest`` steps."""
        return next((line for end in range(len(path), shortest - 1, -1) if (line := self.lines.get(path[:end]))), None)


#: The origin of a recipe that is not a file.
UNNAMED = Origin()


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint for an unknown name: the closest known one, else all of them."""
    names = list(known)
    close = difflib.get_close_matches(name, names, n=1)
    return f"did you mean '{close[0]}'?" if close else "known: " + (", ".join(names) or "none")
