"""Which node has room for a unit: bookkeeping by node and by need, without I/O."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Hashable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

PER_DEVICE = 2  #: units that compute on a device in turn, so that one is prepared while the other computes
AHEAD = 2  #: units that read or write for each that computes, where a process runs several

_ROUNDING = 1e-9  # of sums of work
_FIRST = 2  # units of the largest kind by which nodes are taken for equal, before they have done any


@dataclass(frozen=True)
class Node:
    """The capacity of one node: ``slots`` units compute at a time; all units there take ``memory`` bytes together.

    ``ahead``: so many more units read their inputs, or write, while those compute.
    ``device_memory``: bytes of each of its devices, two slots of the node each; None where units compute on the CPU.
    ``name``: its name in messages; ``speed``: operations a second of its slowest kind of work, where that was measured.
    """

    slots: int
    memory: int
    device_memory: int | None = None
    name: str = ""
    speed: float | None = field(default=None, compare=False)
    ahead: int = 0

    @property
    def capacity(self) -> int:
        """Slots of the units that are there at a time, whatever they do."""
        return self.slots + self.ahead if self.slots else 0


class Need(NamedTuple):
    """What a unit needs: bytes of the node's ``memory``, and of a ``device``'s; ``alone``: no other unit beside it."""

    memory: int
    device: int = 0
    alone: bool = False


@dataclass(frozen=True)
class Booking:
    """The node that a unit runs on, and the bytes and slots that are booked for it there. ``work``: that it brings."""

    node: str
    memory: int
    slots: int = 1
    work: float = field(default=0.0, compare=False)


class Placement:
    """Books units on nodes, each node within its slots and memory.

    A unit that needs no device goes to cores, and to a device's process only where no node has cores for it. One that
    needs at most half of a device's memory shares the device; a larger one gets it alone. A unit that is too large for
    every node runs alone on one of the largest; one that is to be alone waits for an empty node. Of the nodes with
    room, the one with most room gets the unit, or, where units wait behind others, the one with the least work; nodes
    that did not answer get one only where there is no other. What no booking changes is kept between them, so that a
    run of many units on many nodes stays quick.

    A node that reads ahead takes no more than its share of the work that is left, so that near the end no unit waits
    behind others while another node is idle. The share of one that has done less than others so far is smaller.
    """

    def __init__(self, nodes: Mapping[str, Node]) -> None:
        self._booked: dict[Hashable, Booking] = {}
        self._begun: set[str] = set()
        self._done: dict[str, float] = {}  # the work of units that ended well, on nodes that read ahead
        self._largest = 0.0
        self._used: dict[str, tuple[int, int, float]] = {}
        self._unresponsive: set[str] = set()
        self.nodes = dict(nodes)
        self.names: dict[str, str] = {}  # also of nodes that left
        self.resize(nodes)

    @property
    def full(self) -> bool:
        """Whether no node has a slot free."""
        return not self._open

    def resize(self, nodes: Mapping[str, Node]) -> None:
        """Replace the available nodes. Bookings on a node that left remain until they are released.

        One that comes back has answered.
        """
        self._unresponsive -= nodes.keys() - self.nodes.keys()
        self.nodes = dict(nodes)
        self.names.update({key: node.name for key, node in nodes.items()})
        self.slots = sum(node.slots for node in nodes.values())
        self._order = {name: -place for place, name in enumerate(self.nodes)}
        self._free: dict[str, tuple[int, int]] = {}  # slots and bytes that are free on each node
        self._open: dict[str, None] = {}  # the nodes with a slot free
        self._empty: dict[str, None] = {}  # those with all slots free
        self._candidates: dict[tuple[Need, tuple[str, ...]], dict[str, int]] = {}
        for name in self.nodes:
            self._count(name)
        self._kinds = {node.device_memory is not None for node in self.nodes.values() if node.slots > 0}
        self._readers = {kind: [name for name in self.nodes if self._reads_ahead(name, kind)] for kind in (False, True)}
        self._compare()
        self._work = {kind: sum(self._work_of(name) for name in names) for kind, names in self._readers.items()}

    def _compare(self) -> None:
        """Keep what the nodes have done that read ahead. One that joins counts as one that has done the mean."""
        before, self._done, self._all_done = self._done, dict[str, float](), dict[bool, float]()
        for kind, names in self._readers.items():
            known = [before[name] for name in names if name in before]
            mean = sum(known) / max(1, len(known))
            self._done.update({name: before.get(name, mean) for name in names})
            self._all_done[kind] = sum(self._done[name] for name in names)

    def mark(self, name: str, responsive: bool) -> None:
        """Record whether a node answered when it last should have."""
        if (name in self._unresponsive) == responsive:
            self._unresponsive ^= {name}
            self._candidates.clear()

    def book(self, key: Hashable, booking: Booking) -> None:
        self._booked[key] = booking
        self._use(booking, 1)

    def release(self, key: Hashable) -> Booking | None:
        booking = self._booked.pop(key, None)
        if booking is not None:
            self._use(booking, -1)
        return booking

    def take_new(self) -> Collection[str]:
        """The nodes that read ahead and have had no unit so far; they count as begun from now on."""
        new = [name for names in self._readers.values() for name in names if name not in self._begun]
        self._begun.update(new)
        return new

    def among_first(self, nodes: Collection[str]) -> Callable[[str], bool]:
        """Allows units on these nodes alone, as many as compute there."""
        return lambda name: name in nodes and self._free[name][0] > self.nodes[name].ahead

    def within_share(self, work: float, waiting: Mapping[bool, float]) -> Callable[[str], bool] | None:
        """Allows a unit of so much work on nodes that are idle, or whose work stays within their share of all that is
        left; None where no node reads ahead. ``waiting``: the work that waits, by whether it is for devices."""
        if not any(self._readers.values()):
            return None
        nodes, empty, both = self.nodes, self._empty, len(self._kinds) == 2
        most = dict[bool, float]()
        for kind, names in self._readers.items():
            left = self._work[kind] + (waiting[kind] if both else sum(waiting.values()))
            most[kind] = (1 + _ROUNDING) * left / max(1, len(names))
        return lambda name: (
            not nodes[name].ahead
            or name in empty
            or self._work_of(name) + work <= self._pace(name) * most[nodes[name].device_memory is not None]
        )

    def has_done(self, booking: Booking) -> None:
        """Record that a unit ended well: nodes are compared by the work that they have done."""
        if booking.node in self._done:
            self._done[booking.node] += booking.work
            self._all_done[self.nodes[booking.node].device_memory is not None] += booking.work
            self._largest = max(self._largest, booking.work)

    def _pace(self, name: str) -> float:
        """The work that a node has done beside the mean of its kind, both with what the first units will bring."""
        kind = self.nodes[name].device_memory is not None
        first = _FIRST * self._largest
        mean = self._all_done[kind] / len(self._readers[kind])
        return (self._done[name] + first) / (mean + first) if mean else 1.0

    def find(
        self,
        need: Need,
        reserved: str | None = None,
        avoid: tuple[str, ...] = (),
        allowed: Callable[[str], bool] | None = None,
    ) -> Booking | None:
        """A booking that is possible now: not on ``reserved``; in ``avoid`` only where no other node fits the unit."""
        if need.memory > self._room(reserved):
            return None
        able, free, nodes, least = self._able(need, avoid), self._free, self.nodes, need.memory
        possible = [
            name
            for name in self._open
            if name in able
            and name != reserved
            and ((able[name] <= free[name][0] and least <= free[name][1]) or free[name][0] == nodes[name].capacity)
            and (allowed is None or allowed(name))
        ]
        best = max(possible, key=self._rank, default=None)
        return None if best is None else Booking(best, min(least, nodes[best].memory), able[best])

    def to_reserve(self, need: Need, avoid: tuple[str, ...] = ()) -> str | None:
        """The node to reserve for a unit that has no room now: of those that fit it, the one with most room."""
        return max(self._able(need, avoid), key=self._free.__getitem__, default=None)

    def _able(self, need: Need, avoid: tuple[str, ...]) -> dict[str, int]:
        """The nodes that can run a unit when empty (those that it fits, or the largest), with the slots it takes."""
        if (need, avoid) not in self._candidates:
            usable = _of_kind(need, {name: node for name, node in self.nodes.items() if node.slots > 0})
            names = [name for name, node in usable.items() if _fits(need, node)]
            if not names:
                largest = max(map(_size, usable.values()), default=None)
                names = [name for name, node in usable.items() if _size(node) == largest]
            names = [name for name in names if name not in self._unresponsive] or names
            names = [name for name in names if name not in avoid] or names
            self._candidates[need, avoid] = {name: _slots(need, self.nodes[name]) for name in names}
        return self._candidates[need, avoid]

    def _room(self, reserved: str | None) -> int:
        """The most bytes that a unit can be booked with now: without limit where a node is empty."""
        if reserved not in self._rooms:
            free = [self._free[name][1] for name in self._open if name != reserved]
            room = sys.maxsize if self._empty.keys() - {reserved} else max(free, default=-1)
            self._rooms[reserved] = room
        return self._rooms[reserved]

    def _rank(self, name: str) -> tuple[float, tuple[int, int], int]:
        work = self._work_of(name) if self.nodes[name].ahead else 0.0
        return -work, self._free[name], self._order[name]

    def _work_of(self, name: str) -> float:
        return self._used[name][2] if name in self._used else 0.0

    def _reads_ahead(self, name: str, device: bool) -> bool:
        """Whether units of a node wait behind others, on its device or on its cores."""
        node = self.nodes[name]
        return node.slots > 0 and node.ahead > 0 and (node.device_memory is not None) == device

    def _use(self, booking: Booking, sign: int) -> None:
        slots, memory, work = self._used.get(booking.node, (0, 0, 0.0))
        work = work + sign * booking.work if slots + sign * booking.slots else 0.0  # no rounding stays behind
        if booking.node in self.nodes and self.nodes[booking.node].ahead:
            self._work[self.nodes[booking.node].device_memory is not None] += work - self._work_of(booking.node)
        self._used[booking.node] = slots + sign * booking.slots, memory + sign * booking.memory, work
        if booking.node in self.nodes:
            self._count(booking.node)

    def _count(self, name: str) -> None:
        """Work out what is free on a node."""
        slots, memory, _ = self._used.get(name, (0, 0, 0.0))
        self._free[name] = self.nodes[name].capacity - slots, self.nodes[name].memory - memory
        for group, holds in (
            (self._open, self._free[name][0] > 0),
            (self._empty, self._free[name][0] == self.nodes[name].capacity > 0),
        ):
            if holds:
                group[name] = None
            else:
                group.pop(name, None)
        self._rooms: dict[str | None, int] = {}


def _slots(need: Need, node: Node) -> int:
    """How many slots of a node a unit takes."""
    if need.alone:
        return node.capacity
    shares = node.device_memory is None or PER_DEVICE * need.device <= node.device_memory
    return 1 if shares else min(PER_DEVICE, node.slots)


def _of_kind(need: Need, nodes: Mapping[str, Node]) -> Mapping[str, Node]:
    """The nodes with devices for a unit that needs one, else those without; all where there are none of these."""
    return {name: node for name, node in nodes.items() if (node.device_memory is None) != (need.device > 0)} or nodes


def _fits(need: Need, node: Node) -> bool:
    return need.memory <= node.memory and (node.device_memory is None or need.device <= node.device_memory)


def _size(node: Node) -> tuple[int, int]:
    return node.device_memory or 0, node.memory
