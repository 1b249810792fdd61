"""Warnings about a recipe's keys, where several say the same as one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from svc_dist.errors import Warned, warned
from svc_dist.recipe.origin import KeyPath, Origin


@dataclass
class Notes:
    """Warnings in order, each with the keys that it is about.

    ``{names}`` in a text is the list of these keys, ``{them}`` is "it" or "them".
    """

    _by_text: dict[tuple[str, str], list[KeyPath]] = field(default_factory=dict)

    def add(self, path: KeyPath, text: str, *, code: str) -> None:
        """Note ``text`` about the key at ``path``."""
        self._by_text.setdefault((code, text), []).append(path)

    def warnings(self, origin: Origin) -> Iterator[Warned]:
        """One warning for each text, with the line of its first key, and how many more mappings have such a key."""
        for (code, text), paths in self._by_text.items():
            names = [f"'{name}'" for name in dict.fromkeys(path[-1] for path in paths)]
            listed = " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
            more = len({path[:-1] for path in paths}) - 1
            said = text.replace("{names}", listed).replace("{them}", "it" if len(names) == 1 else "them")
            yield warned(code, f"{origin.at(*paths[0])}{f' and {more} more' if more else ''}: {said}")
