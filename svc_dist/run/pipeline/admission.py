"""Who enters a stage: first come, first served, within a limit. No threads and no clock."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable


class Admission:
    """Lets units into a stage in the order in which they asked, together at most ``limit`` (bytes, or lanes).

    Nobody overtakes the one that waits longest. A unit larger than the limit enters when the stage is empty.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0
        self._inside: dict[Hashable, int] = {}
        self._waiting: deque[tuple[Hashable, int]] = deque()

    def ask(self, unit: Hashable, amount: int) -> list[Hashable]:
        """Queue a unit. Returns those that may enter now: this one, or none."""
        self._waiting.append((unit, amount))
        return self._admit()

    def leave(self, unit: Hashable) -> list[Hashable]:
        """A unit left the stage, or stopped waiting for it. Returns those that may enter now, in order."""
        if unit in self._inside:
            self.used -= self._inside.pop(unit)
        else:
            self._waiting = deque(item for item in self._waiting if item[0] != unit)
        return self._admit()

    def _admit(self) -> list[Hashable]:
        admitted: list[Hashable] = []
        while self._waiting:
            unit, amount = self._waiting[0]
            if self._inside and self.used + amount > self.limit:
                break
            self._waiting.popleft()
            self._inside[unit] = amount
            self.used += amount
            admitted.append(unit)
        return admitted
