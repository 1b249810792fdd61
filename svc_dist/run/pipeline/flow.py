"""The stages of one process: which units read and which compute. No threads, no clock: workers and forecasts share it.

A unit that arrives gets room in the window, where its inputs stay until it has computed, then reads, then computes on
lanes. So a device never holds a unit that waits for bytes. Whoever has computed writes, which takes no room here.
"""

from __future__ import annotations

from collections.abc import Hashable
from enum import Enum
from typing import NamedTuple

from svc_dist.run.pipeline.admission import Admission

READERS = 2  #: units that read at a time, at least: one ends while the next one begins


class Stage(Enum):
    READ = "read"
    COMPUTE = "compute"


class Move(NamedTuple):
    """A unit may enter a stage."""

    unit: Hashable
    stage: Stage


class Flow:
    """Moves units on, in the order in which they come. ``window``: bytes of inputs; ``lanes``: units that compute.

    ``host_lanes``: of units that compute on this machine's cores, where the others do on a device.
    """

    def __init__(self, window: int, lanes: int, host_lanes: int = 1) -> None:
        self._window = Admission(window)
        self._readers = Admission(max(READERS, lanes))
        self._lanes = {False: Admission(lanes), True: Admission(host_lanes)}

    def arrive(self, unit: Hashable, size: int) -> list[Move]:
        """A unit comes whose inputs have ``size`` bytes."""
        return self._to_readers(self._window.ask(unit, size))

    def has_read(self, unit: Hashable, lanes: int = 1, on_host: bool = False) -> list[Move]:
        """A unit has its inputs, and takes so many lanes."""
        readers = [Move(one, Stage.READ) for one in self._readers.leave(unit)]
        return readers + [Move(one, Stage.COMPUTE) for one in self._lanes[on_host].ask(unit, lanes)]

    def has_computed(self, unit: Hashable) -> list[Move]:
        """A unit needs neither inputs nor lanes any more. Also where it failed, wherever it was."""
        moves = [Move(one, Stage.COMPUTE) for lanes in self._lanes.values() for one in lanes.leave(unit)]
        moves += [Move(one, Stage.READ) for one in self._readers.leave(unit)]
        return moves + self._to_readers(self._window.leave(unit))

    def _to_readers(self, units: list[Hashable]) -> list[Move]:
        return [Move(one, Stage.READ) for unit in units for one in self._readers.ask(unit, 1)]
