"""How the cores and the memory of a node are divided among processes that run units. No I/O."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

#: Units that compute at a time in one process, at most: what they do under the interpreter's lock passes unnoticed, and
#: few units run again where a process ends.
LANES = 4
#: A node's memory is divided by this where it has GPUs: cores beside them get one share, the GPUs' processes another.
BESIDE_GPUS = 2


class Share(NamedTuple):
    """What one process gets: ``lanes`` units compute there at a time; all units there take ``memory`` bytes."""

    lanes: int
    memory: int


def shares(lanes: int, memory: int, largest: int) -> list[Share]:
    """The shares of a node, so few that a unit of ``largest`` bytes fits into each, as far as it fits into the node."""
    most = memory // largest if largest else lanes
    count = max(1, min(-(-lanes // LANES), most)) if lanes > 0 else 0
    return [Share((lanes + number) // count, memory // count) for number in range(count)]


def of_node(resources: Mapping[str, float], gpus: int, threads: int, most: int, largest: int) -> list[Share]:
    """The shares of a node, beside the processes of its GPUs: these take a core each, and their part of the memory."""
    lanes = min((int(resources.get("CPU", 0)) - gpus) // threads, most)
    return shares(lanes, int(resources.get("memory", 0)) // (BESIDE_GPUS if gpus else 1), largest)


def within(share: Share, idle: Mapping[str, float] | None, threads: int) -> Share:
    """What of a share other work leaves now. ``idle``: of the node; None where that is not known."""
    if idle is None:
        return share
    return Share(min(share.lanes, int(idle.get("CPU", 0)) // threads), min(share.memory, int(idle.get("memory", 0))))
