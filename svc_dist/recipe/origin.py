"""Where a recipe's keys stand, for messages."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

#: The way to a key: names of keys, and positions in lists.
KeyPath = tuple[str | int, ...]


@dataclass(frozen=True)
class Origin:
    """The name of a recipe, which is its file's where it has one, and the line (from 1) of each key in it."""

    name: str = "recipe"
    lines: Mapping[KeyPath, int] = field(default_factory=dict, repr=False)

    def at(self, *path: str | int) -> str:
        """``recipe.yaml:12 (rules[0].match)``: a key, with its line or that of the nearest key around it."""
        line = next((self.lines[path[:end]] for end in range(len(path), 0, -1) if path[:end] in self.lines), None)
        key = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".")
        return (f"{self.name}:{line}" if line else self.name) + (f" ({key})" if key else "")

    def with_lines_of(self, *prefix: str | int) -> Origin:
        """The same keys, on the lines that they have under ``prefix`` where they stand there."""
        depth = len(prefix)
        inner = {path[depth:]: line for path, line in self.lines.items() if path[:depth] == prefix and path[depth:]}
        if ("lambda",) in inner:
            inner["parameters", "lambda"] = inner["lambda",]
        return Origin(self.name, {**self.lines, **inner})


#: Where a recipe comes from that is no file.
UNNAMED = Origin()


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint for an unknown name: the closest known one, else all of them."""
    names = list(known)
    close = difflib.get_close_matches(name, names, n=1)
    return f"did you mean '{close[0]}'?" if close else "known: " + (", ".join(names) or "none")
