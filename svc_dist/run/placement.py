"""Which node has room for a unit: a pure account of what is in flight where."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping
from dataclasses import dataclass

PER_DEVICE = 2  #: units that share a device, so that one reads or writes while the other computes


@dataclass(frozen=True)
class Node:
    """What one node takes: ``slots`` units at once, together ``memory`` bytes.

    ``device_memory``: bytes of each of its devices, two slots of the node each; None where units compute on the CPU.
    ``name``: what people call it.
    """

    slots: int
    memory: int
    device_memory: int | None = None
    name: str = ""


@dataclass(frozen=True)
class Need:
    """What a unit takes: bytes of the node's ``memory``, and of a ``device``'s."""

    memory: int
    device: int = 0


@dataclass(frozen=True)
class Place:
    """Where a unit goes, and the bytes and slots that are booked for it there."""

    node: str
    memory: int
    slots: int = 1


class Placement:
    """Books units on nodes, each node within its slots and memory.

    A unit that leaves a device half of its memory at least shares it; a larger one takes the device alone. One that is
    too large for every node runs alone on one of the largest. Of the nodes with room, the one with most of it is taken.
    """

    def __init__(self, nodes: Mapping[str, Node]) -> None:
        self.nodes = dict(nodes)
        self._booked: dict[Hashable, Place] = {}
        self._used: dict[str, tuple[int, int]] = {}
        self._doubted: dict[str, None] = {}

    @property
    def full(self) -> bool:
        """Whether no node has a slot free."""
        return all(self._free(name)[0] < 1 for name in self.nodes)

    def resize(self, nodes: Mapping[str, Node]) -> None:
        """The nodes that there are now. What is booked on one that went stays booked until it is released."""
        self.nodes = dict(nodes)

    def book(self, key: Hashable, place: Place) -> None:
        self._booked[key] = place
        self._use(place, 1)

    def release(self, key: Hashable) -> Place | None:
        place = self._booked.pop(key, None)
        if place is not None:
            self._use(place, -1)
        return place

    def doubt(self, node: str) -> None:
        """A node did not answer: others are preferred, whatever room it has, until it does."""
        self._doubted[node] = None

    def trust(self, node: str) -> None:
        self._doubted.pop(node, None)

    def find(self, need: Need, kept: str | None = None, avoid: Collection[str] = ()) -> Place | None:
        """A place that is free now; not on ``kept``, and in ``avoid`` only where no other node could ever take it."""
        best: tuple[int, int] | None = None
        found: Place | None = None
        for name in self._candidates(need, avoid):
            place, free = self._place(need, name), self._free(name)
            fits = place.slots <= free[0] and need.memory <= free[1]
            if name != kept and (fits or free[0] == self.nodes[name].slots) and (best is None or free > best):
                best, found = free, place
        return found

    def reserve(self, need: Need, avoid: Collection[str] = ()) -> str | None:
        """The node to keep free for a unit that has no place now: of those that could take it, the roomiest."""
        return max(self._candidates(need, avoid), key=self._free, default=None)

    def _candidates(self, need: Need, avoid: Collection[str]) -> list[str]:
        """The nodes that could take a unit when empty: those that it fits, or else the largest."""
        usable = {name: node for name, node in self.nodes.items() if node.slots > 0}
        names = [name for name, node in usable.items() if _fits(need, node)]
        if not names:
            largest = max(map(_size, usable.values()), default=None)
            names = [name for name, node in usable.items() if _size(node) == largest]
        trusted = [name for name in names if name not in self._doubted] or names
        return [name for name in trusted if name not in avoid] or trusted

    def _place(self, need: Need, name: str) -> Place:
        node = self.nodes[name]
        shares = node.device_memory is None or PER_DEVICE * need.device <= node.device_memory
        slots = 1 if shares else min(PER_DEVICE, node.slots)
        return Place(name, min(need.memory, node.memory), slots)

    def _free(self, name: str) -> tuple[int, int]:
        """Slots and bytes that are free on a node."""
        slots, memory = self._used.get(name, (0, 0))
        return self.nodes[name].slots - slots, self.nodes[name].memory - memory

    def _use(self, place: Place, sign: int) -> None:
        slots, memory = self._used.get(place.node, (0, 0))
        self._used[place.node] = slots + sign * place.slots, memory + sign * place.memory


def _fits(need: Need, node: Node) -> bool:
    return need.memory <= node.memory and (node.device_memory is None or need.device <= node.device_memory)


def _size(node: Node) -> tuple[int, int]:
    return node.device_memory or 0, node.memory
