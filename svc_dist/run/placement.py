"""Which node has room for a unit: bookkeeping of the units in flight on each node, without I/O."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping
from dataclasses import dataclass

PER_DEVICE = 2  #: units that share a device, so that one reads or writes while the other computes


@dataclass(frozen=True)
class Node:
    """The capacity of one node: ``slots`` units at a time, together ``memory`` bytes.

    ``device_memory``: bytes of each of its devices, two slots of the node each; None where units compute on the CPU.
    ``name``: its name in messages.
    """

    slots: int
    memory: int
    device_memory: int | None = None
    name: str = ""


@dataclass(frozen=True)
class Need:
    """What a unit needs: bytes of the node's ``memory``, and of a ``device``'s."""

    memory: int
    device: int = 0


@dataclass(frozen=True)
class Booking:
    """The node that a unit runs on, and the bytes and slots that are booked for it there."""

    node: str
    memory: int
    slots: int = 1


class Placement:
    """Books units on nodes, each node within its slots and memory.

    A unit that needs at most half of a device's memory shares the device; a larger one gets it alone. A unit that is
    too large for every node runs alone on one of the largest. Of the nodes with room, the one with most room gets the
    unit; nodes in ``unresponsive``, which did not answer, only where there is no other.
    """

    def __init__(self, nodes: Mapping[str, Node]) -> None:
        self.nodes = dict(nodes)
        self._booked: dict[Hashable, Booking] = {}
        self._used: dict[str, tuple[int, int]] = {}
        self.unresponsive: set[str] = set()

    @property
    def full(self) -> bool:
        """Whether no node has a slot free."""
        return all(self._free(name)[0] < 1 for name in self.nodes)

    def resize(self, nodes: Mapping[str, Node]) -> None:
        """Replace the available nodes. Bookings on a node that left remain until they are released."""
        self.nodes = dict(nodes)

    def book(self, key: Hashable, booking: Booking) -> None:
        self._booked[key] = booking
        self._use(booking, 1)

    def release(self, key: Hashable) -> Booking | None:
        booking = self._booked.pop(key, None)
        if booking is not None:
            self._use(booking, -1)
        return booking

    def find(self, need: Need, reserved: str | None = None, avoid: Collection[str] = ()) -> Booking | None:
        """A booking that is possible now: not on ``reserved``; in ``avoid`` only where no other node fits the unit."""

        def possible(name: str) -> bool:
            slots, memory = self._free(name)
            fits = self._booking(need, name).slots <= slots and need.memory <= memory
            return name != reserved and (fits or slots == self.nodes[name].slots)

        best = max(filter(possible, self._candidates(need, avoid)), key=self._free, default=None)
        return None if best is None else self._booking(need, best)

    def to_reserve(self, need: Need, avoid: Collection[str] = ()) -> str | None:
        """The node to reserve for a unit that has no room now: of those that fit it, the one with most room."""
        return max(self._candidates(need, avoid), key=self._free, default=None)

    def _candidates(self, need: Need, avoid: Collection[str]) -> list[str]:
        """The nodes that can run a unit when empty: those that it fits, or else the largest."""
        usable = {name: node for name, node in self.nodes.items() if node.slots > 0}
        names = [name for name, node in usable.items() if _fits(need, node)]
        if not names:
            largest = max(map(_size, usable.values()), default=None)
            names = [name for name, node in usable.items() if _size(node) == largest]
        responsive = [name for name in names if name not in self.unresponsive] or names
        return [name for name in responsive if name not in avoid] or responsive

    def _booking(self, need: Need, name: str) -> Booking:
        node = self.nodes[name]
        shares = node.device_memory is None or PER_DEVICE * need.device <= node.device_memory
        slots = 1 if shares else min(PER_DEVICE, node.slots)
        return Booking(name, min(need.memory, node.memory), slots)

    def _free(self, name: str) -> tuple[int, int]:
        """Slots and bytes that are free on a node."""
        slots, memory = self._used.get(name, (0, 0))
        return self.nodes[name].slots - slots, self.nodes[name].memory - memory

    def _use(self, booking: Booking, sign: int) -> None:
        slots, memory = self._used.get(booking.node, (0, 0))
        self._used[booking.node] = slots + sign * booking.slots, memory + sign * booking.memory


def _fits(need: Need, node: Node) -> bool:
    return need.memory <= node.memory and (node.device_memory is None or need.device <= node.device_memory)


def _size(node: Node) -> tuple[int, int]:
    return node.device_memory or 0, node.memory
