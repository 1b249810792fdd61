"""Simulation of a run: the schedule that every executor follows, fed with simulated events. No I/O.

Each unit reads, computes, writes and records its receipt. Units that read or write share their node's bandwidth, units
that compute share their device; whenever one of them enters its next phase, the rates of the others change.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field

from svc_dist.forecast.cluster import Cluster
from svc_dist.plan.model import Plan
from svc_dist.run.placement import Booking
from svc_dist.run.schedule import Done, FinishShard, Instruction, Publish, RunUnit, Schedule

_ROUNDING = 1e-9  # of a phase, or seconds


@dataclass(frozen=True)
class Load:
    """The load of a unit: bytes to read and write, seconds of computing ``alone`` and ``crowded``."""

    read: float
    alone: float
    crowded: float
    write: float


@dataclass
class Trace:
    """The simulated run: seconds until the end, when each unit ended, lane-seconds of computing."""

    seconds: float = 0.0
    ended: dict[str, float] = field(default_factory=dict)
    computing: float = 0.0


@dataclass
class _Running:
    """A running unit, on ``slots`` of a device. ``remaining``: the remaining share of its current phase."""

    unit: str
    device: int
    slots: int
    load: Load
    phase: int = 0
    remaining: float = 1.0
    rate: float = 0.0


_READ, _COMPUTE, _WRITE, _RECORD, _END = range(5)


class _Node:
    """One machine: its running units, and the rate of each of them."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.units: list[_Running] = []
        self.on_device = [0] * cluster.devices
        self.at = 0.0
        self.version = 0
        self.computing = 0.0

    def advance(self, now: float) -> list[str]:
        """Advance to a time. Returns the units that are done by then."""
        elapsed = now - self.at
        busy = [0] * self.cluster.devices
        for running in self.units:
            running.remaining -= running.rate * elapsed
            busy[running.device] += running.phase == _COMPUTE
        self.computing += elapsed * sum(min(count, self.cluster.lanes) for count in busy)
        self.at = now
        done = []
        for running in self.units:
            while running.phase < _END and (
                self._amount(running) <= 0 or running.remaining <= _ROUNDING * max(1.0, running.rate)
            ):
                running.phase += 1
                running.remaining, running.rate = 1.0, 0.0
            if running.phase == _END:
                done.append(running.unit)
                self.on_device[running.device] -= running.slots
        self.units = [running for running in self.units if running.phase < _END]
        self._share()
        return done

    def add(self, unit: str, slots: int, load: Load) -> None:
        """Start a unit on the device that has most room."""
        device = min(range(len(self.on_device)), key=lambda number: self.on_device[number])
        self.units.append(_Running(unit, device, slots, load))
        self.on_device[device] += slots

    def next_event(self) -> float | None:
        """When the next phase ends, if nothing else happens before."""
        return min((self.at + running.remaining / running.rate for running in self.units), default=None)

    def _amount(self, running: _Running) -> float:
        load = running.load
        return (load.read, load.crowded, load.write, self.cluster.record)[running.phase]

    def _share(self) -> None:
        storage, lanes = self.cluster.storage, self.cluster.lanes
        phases = [0] * _END
        computing = [0] * self.cluster.devices
        for running in self.units:
            phases[running.phase] += 1
            computing[running.device] += running.phase == _COMPUTE
        for running in self.units:
            match running.phase:
                case 0:  # reading
                    running.rate = min(storage.read_each, storage.read / phases[_READ]) / running.load.read
                case 1:  # computing
                    busy = computing[running.device]
                    crowd = (min(busy, lanes) - 1) / (lanes - 1) if lanes > 1 else 1.0
                    seconds = running.load.alone + (running.load.crowded - running.load.alone) * crowd
                    running.rate = min(1.0, lanes / busy) / seconds
                case 2:  # writing
                    running.rate = min(storage.write_each, storage.write / phases[_WRITE]) / running.load.write
                case _:  # recording its receipt
                    running.rate = 1.0 / self.cluster.record


def simulate(plan: Plan, cluster: Cluster, loads: Mapping[str, Load], sink_memory: int = 0) -> Trace:
    """Run a plan's schedule on a cluster. ``loads``: of each unit."""
    nodes = [_Node(cluster) for _ in range(cluster.nodes)]
    schedule = Schedule(plan, {str(number): cluster.node for number in range(cluster.nodes)}, sink_memory=sink_memory)
    trace = Trace()
    order = itertools.count()
    events: list[tuple[float, int, int | Instruction, int]] = []  # time, order, a node or what is done, its version

    def later(node: int) -> None:
        nodes[node].version += 1
        at = nodes[node].next_event()
        if at is not None:
            heapq.heappush(events, (at, next(order), node, nodes[node].version))

    def start(instructions: list[Instruction], now: float) -> None:
        changed: dict[int, None] = {}
        for instruction in instructions:
            match instruction:
                case RunUnit(unit, Booking(name, slots=slots)):
                    node = int(name)
                    if node not in changed:
                        finish(node, now)
                    nodes[node].add(unit, slots, loads[unit])
                    changed[node] = None
                case FinishShard() | Publish():
                    heapq.heappush(events, (now + cluster.record, next(order), instruction, 0))
        for node in changed:
            finish(node, now)
            later(node)

    def finish(node: int, now: float) -> list[str]:
        done = nodes[node].advance(now)
        for unit in done:
            trace.ended[unit] = now
            heapq.heappush(events, (now, next(order), RunUnit(unit), 0))
        return done

    start(schedule.start(), cluster.start)
    while events:
        now, _, what, version = heapq.heappop(events)
        if isinstance(what, int):
            if version == nodes[what].version:
                finish(what, now)
                later(what)
            continue
        trace.seconds = now
        start(schedule.handle(Done(what)), now)
    trace.seconds += cluster.end
    trace.computing = sum(node.computing for node in nodes)
    return trace
