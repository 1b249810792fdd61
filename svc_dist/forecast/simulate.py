"""Simulation of a run: the schedule that every executor follows, fed with simulated events. No I/O.

Each unit reads, computes, writes and records its receipt, admitted to its stages by the code that workers run. Units
that read or write share their machine's bandwidth, units that compute share their device; whenever one of them enters
its next phase, the rates of the others change.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field

from svc_dist.forecast.cluster import Cluster
from svc_dist.forecast.machine import Load, Machine, processes
from svc_dist.plan.model import Plan
from svc_dist.run.placement import Booking
from svc_dist.run.schedule import Done, FinishShard, Instruction, Publish, RunUnit, Schedule


@dataclass
class Trace:
    """The simulated run: seconds until the end, when each unit ended, lane-seconds of computing."""

    seconds: float = 0.0
    ended: dict[str, float] = field(default_factory=dict)
    computing: float = 0.0


def simulate(plan: Plan, cluster: Cluster, loads: Mapping[str, Load], sink_memory: int = 0) -> Trace:
    """Run a plan's schedule on a cluster. ``loads``: of each unit."""
    machines = [Machine(cluster) for _ in range(cluster.nodes)]
    schedule = Schedule(plan, processes(cluster), sink_memory=sink_memory, landing=cluster.remote)
    trace = Trace()
    order = itertools.count()
    events: list[tuple[float, int, int | Instruction, int]] = []  # time, order, a machine or what is done, its version

    def later(machine: int) -> None:
        machines[machine].version += 1
        at = machines[machine].next_event()
        if at is not None:
            heapq.heappush(events, (at, next(order), machine, machines[machine].version))

    def start(instructions: list[Instruction], now: float) -> None:
        changed: dict[int, None] = {}
        for instruction in instructions:
            match instruction:
                case RunUnit(unit, Booking(name, slots=slots)):
                    machine, process = map(int, name.split("/"))
                    if machine not in changed:
                        finish(machine, now)
                    machines[machine].add(unit, process, slots, loads[unit])
                    changed[machine] = None
                case FinishShard() | Publish():
                    heapq.heappush(events, (now + cluster.record, next(order), instruction, 0))
        for machine in changed:
            finish(machine, now)
            later(machine)

    def finish(machine: int, now: float) -> None:
        for unit in machines[machine].advance(now):
            trace.ended[unit] = now
            heapq.heappush(events, (now, next(order), RunUnit(unit), 0))

    start(schedule.start(), cluster.start)
    while events:
        now, _, what, version = heapq.heappop(events)
        if isinstance(what, int):
            if version == machines[what].version:
                finish(what, now)
                later(what)
            continue
        trace.seconds = now
        start(schedule.handle(Done(what)), now)
    trace.seconds += cluster.end
    trace.computing = sum(machine.computing for machine in machines)
    return trace
