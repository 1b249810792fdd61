"""One simulated machine: its processes, the units in each of their stages, and the rate of each unit."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from enum import IntEnum

from svc_dist.forecast.cluster import Cluster
from svc_dist.run.pipeline.flow import READERS, Flow, Move, Stage
from svc_dist.run.placement import Node

_ROUNDING = 1e-9  # of a phase, or seconds


@dataclass(frozen=True)
class Load:
    """The load of a unit: bytes to read and write, seconds of computing ``alone`` and ``crowded``.

    ``handover``: seconds for which it holds its lane while the host takes over what the device has made.
    """

    read: float
    alone: float
    crowded: float
    write: float
    handover: float = 0.0


class _Phase(IntEnum):
    """Where a unit is; ``ROOM`` and ``LANE`` are waiting."""

    ROOM = 0
    READ = 1
    LANE = 2
    COMPUTE = 3
    HANDOVER = 4
    WRITE = 5
    RECORD = 6
    END = 7


_WAITING = (_Phase.ROOM, _Phase.LANE)


@dataclass(eq=False)
class _Running:
    """A unit in a process. ``remaining``: the remaining share of its current phase."""

    unit: str
    process: int
    slots: int
    load: Load
    phase: _Phase = _Phase.ROOM
    remaining: float = 1.0
    rate: float = 0.0


class Machine:
    """The processes of one machine, one for each of its devices, and their running units.

    ``computing``: lane-seconds of computing on them so far. Cores beside devices count as
    one process more.
    """

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.at = self.computing = 0.0
        self.version = 0  # of what ``next_event`` says
        self._units: list[_Running] = []
        self._flows = [Flow(cluster.window, cluster.process.slots) for _ in range(cluster.devices)]
        self._lanes = [cluster.lanes] * cluster.devices
        if cluster.beside is not None:
            self._flows.append(Flow(sys.maxsize, cluster.beside.slots))
            self._lanes.append(cluster.beside.slots)

    def advance(self, now: float) -> list[str]:
        """Advance to a time. Returns the units that are done by then."""
        elapsed, busy = now - self.at, [0] * len(self._flows)
        for running in self._units:
            running.remaining -= running.rate * elapsed
            busy[running.process] += running.phase is _Phase.COMPUTE
        self.computing += elapsed * sum(min(count, self.cluster.lanes) for count in busy[: self.cluster.devices])
        self.at = now
        while ended := [running for running in self._units if self._has_ended(running)]:
            for running in ended:
                self._enter_next(running)
        done = [running.unit for running in self._units if running.phase is _Phase.END]
        self._units = [running for running in self._units if running.phase is not _Phase.END]
        self._share()
        return done

    def add(self, unit: str, process: int, slots: int, load: Load) -> None:
        """Send a unit to a process."""
        running = _Running(unit, process, slots, load)
        self._units.append(running)
        self._move(self._flows[process].arrive(running, int(load.read)))

    def next_event(self) -> float | None:
        """When the next phase ends, if nothing else happens before."""
        active = (self.at + running.remaining / running.rate for running in self._units if running.rate)
        return min(active, default=None)

    def _has_ended(self, running: _Running) -> bool:
        if running.phase in _WAITING or running.phase is _Phase.END:
            return False
        load, phase = running.load, running.phase
        amount = {
            _Phase.READ: load.read, _Phase.COMPUTE: load.crowded, _Phase.HANDOVER: load.handover,
            _Phase.WRITE: load.write,
        }.get(phase, self.cluster.record)  # fmt: skip
        return amount <= 0 or running.remaining <= _ROUNDING * max(1.0, running.rate)

    def _enter_next(self, running: _Running) -> None:
        flow = self._flows[running.process]
        ended = running.phase
        running.phase, running.remaining, running.rate = _Phase(ended + 1), 1.0, 0.0
        if ended is _Phase.READ:
            self._move(flow.has_read(running, running.slots))
        elif ended is _Phase.HANDOVER:
            self._move(flow.has_computed(running))

    def _move(self, moves: list[Move]) -> None:
        for running, stage in moves:
            assert isinstance(running, _Running)
            running.phase = _Phase.READ if stage is Stage.READ else _Phase.COMPUTE
            running.remaining, running.rate = 1.0, 0.0

    def _share(self) -> None:
        """Work out the rate of every unit: those that read or write share links, those that compute share a device.

        Of the units that read in one process, the first has all its connections.
        """
        cluster, storage = self.cluster, self.cluster.storage
        computing, together = [0] * len(self._flows), [0] * len(self._flows)
        reading: dict[int | str, str] = {}  # the unit that reads, by its process, or of cores, by itself
        writing = 0
        for running in self._units:
            if running.phase is _Phase.READ:
                reading.setdefault(self._reader(running), running.unit)
                together[running.process] += 1
            computing[running.process] += running.phase is _Phase.COMPUTE
            writing += running.phase is _Phase.WRITE
        for running in self._units:
            match running.phase:
                case _Phase.READ:
                    reader = self._reader(running)
                    each, client = storage.read_each, cluster.client
                    if reader == running.process:
                        each *= READERS
                    elif running.process < cluster.devices:  # on cores, each unit is in a process of its own
                        client /= together[running.process]
                    rate = min(each, client, storage.read / len(reading)) / running.load.read
                    running.rate = rate if reading[reader] == running.unit else 0.0
                case _Phase.COMPUTE:
                    busy, lanes, load = computing[running.process], self._lanes[running.process], running.load
                    crowd = (min(busy, lanes) - 1) / (lanes - 1) if lanes > 1 else 1.0
                    running.rate = min(1.0, lanes / busy) / (load.alone + (load.crowded - load.alone) * crowd)
                case _Phase.HANDOVER:
                    running.rate = 1.0 / running.load.handover
                case _Phase.WRITE:
                    running.rate = min(storage.write_each, storage.write / writing) / running.load.write
                case _Phase.RECORD:
                    running.rate = 1.0 / cluster.record

    def _reader(self, running: _Running) -> int | str:
        """What shares connections with others: a process whose units read ahead, or a unit by itself."""
        shares = self.cluster.remote and running.process < self.cluster.devices and self.cluster.process.ahead
        return running.process if shares else running.unit


def processes(cluster: Cluster) -> dict[str, Node]:
    """The nodes of a schedule: one for each process of each machine, by ``MACHINE/PROCESS``."""
    found: dict[str, Node] = {}
    for machine in range(cluster.nodes):
        found |= {f"{machine}/{process}": cluster.process for process in range(cluster.devices)}
        if cluster.beside is not None:
            found[f"{machine}/{cluster.devices}"] = cluster.beside
    return found
