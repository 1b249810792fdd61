"""The lines of a recipe's keys, for messages."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

#: The path to a key: names of keys, and positions in lists.
KeyPath = tuple[str | int, ...]
#: The line of a key in its file (from 1), or the words for the place outside of it that gives the key.
Line = int | str


@dataclass(frozen=True)
class Origin:
    """The name of a recipe (of its file, where it has one) and the line of each of its keys.

    ``overlay``: the path of a mapping whose keys override the recipe's, such as an entry of ``outputs``. ``written``:
    of keys that stand for others, the path of these.
    """

    name: str = "recipe"
    lines: Mapping[KeyPath, Line] = field(default_factory=dict, repr=False)
    overlay: KeyPath = ()
    written: Mapping[KeyPath, KeyPath] = field(default_factory=dict, repr=False)

    def at(self, *path: str | int) -> str:
        """``recipe.yaml:12 (rules[0].match)``: a key, with its line or that of the nearest key around it."""
        path = self._as_written(path)
        inner = (*self.overlay, *(path[1:] if path == ("parameters", "lambda") else path))
        overrides = self._line(inner, len(self.overlay) + 1) if self.overlay else None
        known = overrides or self._line(path, 1)
        shown = inner if overrides else path
        key = _joined(shown)
        line = None if known is None else self.lines[known]
        if isinstance(line, str):
            return line if known == shown else f"{line} ({key})"
        return (f"{self.name}:{line}" if line else self.name) + (f" ({key})" if key else "")

    def is_outside(self, path: KeyPath) -> bool:
        """Whether a key comes from outside of the file, like one of ``--set``."""
        return isinstance(self.lines.get(path), str)

    def key(self, *path: str | int) -> str:
        """``rules[0].match``: a key as the recipe has it."""
        return _joined(self._as_written(path))

    def _as_written(self, path: KeyPath) -> KeyPath:
        """A path with the longest known part of it as the recipe has that."""
        for end in range(len(path), 0, -1) if self.written else ():
            if path[:end] in self.written:
                return (*self.written[path[:end]], *path[end:])
        return path

    def _line(self, path: KeyPath, shortest: int) -> KeyPath | None:
        """The longest prefix of ``path`` whose line is known, of at least ``shortest`` steps."""
        prefixes = (path[:end] for end in range(len(path), shortest - 1, -1))
        return next((prefix for prefix in prefixes if self.lines.get(prefix)), None)


def _joined(path: KeyPath) -> str:
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path).lstrip(".")


#: The origin of a recipe that is not a file.
UNNAMED = Origin()


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint for an unknown name: the closest known one, else all of them."""
    names = list(known)
    close = difflib.get_close_matches(name, names, n=1)
    return f"did you mean '{close[0]}'?" if close else "known: " + (", ".join(names) or "none")
