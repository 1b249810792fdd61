"""The units that wait for a node, and in which order they start. No I/O."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from svc_dist.plan.model import Unit
from svc_dist.run.placement import Need

_LONG = 0.5  # of the mean work for each byte of input: a unit with this much computes while the next ones are read


class Group(NamedTuple):
    """Waiting units with one need, which ran on nodes to ``avoid``: where the first has no room, none has."""

    need: Need
    avoid: tuple[str, ...] = ()


class Waiting:
    """The units that wait for a node, in order, by group: what has no room is passed over group by group.

    ``work``: of all of them, by whether it is for devices.
    """

    def __init__(self, units: Sequence[Unit]) -> None:
        """``units``: all that will wait."""
        self.work = {False: 0.0, True: 0.0}
        self._queues: dict[Group, deque[tuple[int, Unit]]] = {}
        self._first = self._last = 0
        self._mean = sum(unit.work for unit in units) / max(1, sum(unit.bytes_in for unit in units))

    def __bool__(self) -> bool:
        return bool(self._queues)

    def __contains__(self, group: Group) -> bool:
        return group in self._queues

    def append(self, unit: Unit, group: Group) -> None:
        """Let a unit wait behind all others."""
        self._last += 1
        self._queues.setdefault(group, deque()).append((self._last, unit))
        self.work[group.need.device > 0] += unit.work

    def appendleft(self, unit: Unit, group: Group) -> None:
        """Let a unit wait before all others."""
        self._first -= 1
        self._queues.setdefault(group, deque()).appendleft((self._first, unit))
        self.work[group.need.device > 0] += unit.work

    def groups(self) -> Iterator[Group]:
        """The groups in the order of their first units. A group comes again only after ``pop`` has taken its first."""
        heads = [(queue[0][0], number, group) for number, (group, queue) in enumerate(self._queues.items())]
        heapq.heapify(heads)
        while heads:
            place, number, group = heads[0]
            yield group
            queue = self._queues.get(group)
            if queue and queue[0][0] != place:
                heapq.heapreplace(heads, (queue[0][0], number, group))
            else:  # it has no room, or no unit is left
                heapq.heappop(heads)

    def to_begin_with(self) -> list[Group]:
        """The groups that a process which has read nothing begins with: small inputs first, which are there soon.

        Only those whose units compute for long enough that the inputs of larger ones arrive meanwhile.
        """
        first = {group: queue[0][1] for group, queue in self._queues.items()}
        long = [group for group, unit in first.items() if unit.work >= _LONG * self._mean * unit.bytes_in]
        return sorted(long, key=lambda group: (first[group].bytes_in, first[group].id))

    def first_of(self, group: Group) -> Unit:
        """The first unit of a group."""
        return self._queues[group][0][1]

    def pop(self, group: Group) -> Unit:
        """Take the first unit of a group."""
        _, unit = self._queues[group].popleft()
        if not self._queues[group]:
            del self._queues[group]
        self.work[group.need.device > 0] -= unit.work
        return unit
