"""The time that a plan takes on a cluster, what bounds it, bytes and requests."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass

from svc_dist.forecast.cluster import Cluster, Money
from svc_dist.forecast.data_sheets import CORE
from svc_dist.forecast.machine import Load
from svc_dist.forecast.rates import Speed
from svc_dist.forecast.simulate import simulate
from svc_dist.plan.costs import work
from svc_dist.plan.model import Plan, Unit
from svc_dist.run.pipeline.needs import Needs
from svc_dist.sizes import counted, format_size
from svc_dist.storage.reading import request_count
from svc_dist.storage.writing.s3 import S3Sink

_VARIATION = 0.1  # of the seconds of a phase, either way
_BOUNDS = {
    "compute": "compute: use more or faster devices",
    "read": "reading: use more bandwidth to the storage, or more nodes",
    "cores": "cores: use machines with more of them beside their GPUs",
    "client": "the clients of the processes: use more devices",
    "write": "writing: use more bandwidth to the storage, or more nodes",
    "running units": "running units: use more slots, if memory allows",
    "the longest unit": "the longest unit: only a faster device helps",
    "handing over": "handing results over: use more slots",
    "start and end": "start and end: the merge itself is short",
}


@dataclass(frozen=True)
class Requests:
    """Requests to object storage: ranges read; parts, creations and completions of uploads; receipts."""

    get: int
    put_part: int
    create: int
    complete: int
    receipt: int


@dataclass(frozen=True)
class Prediction:
    """A simulated run.

    ``bounds``: lower bounds of ``seconds``, by resource; the largest is the ``bottleneck``. ``utilisation``: the share
    of the whole time that each resource is busy. ``requests``: as on object storage. ``price``: of one of
    ``nodes`` for an hour, where it was given; ``cost``: of the run.
    """

    seconds: float
    bottleneck: str
    bounds: dict[str, float]
    utilisation: dict[str, float]
    units: int
    slots: int
    devices: int
    bytes_in: int
    bytes_out: int
    requests: Requests
    precision: str
    notes: tuple[str, ...]
    nodes: int = 1
    price: Money | None = None
    cost: Money | None = None

    def __repr__(self) -> str:
        return f"<Prediction: {self.text().splitlines()[0]}>"

    def text(self) -> str:
        """Lines for a terminal."""
        shares = ", ".join(f"{name} {share:.0%}" for name, share in self.utilisation.items())
        bounds = ", ".join(f"{name} {span(seconds)}" for name, seconds in self.bounds.items() if seconds >= 0.05)
        asked = self.requests
        return "\n".join(
            [
                f"about {span(self.seconds)}, bound by {_BOUNDS[self.bottleneck]}",
                *self._money(),
                f"lower bounds: {bounds}",
                f"busy: {shares}; {counted(self.slots, 'unit')} in parallel on {counted(self.devices, 'device')}",
                f"read {format_size(self.bytes_in)}, write {format_size(self.bytes_out)}",
                f"requests on object storage: {asked.get:,} GET; {counted(asked.put_part, 'part')}, "
                f"{counted(asked.create, 'upload')} begun and {asked.complete:,} completed; "
                f"{counted(asked.receipt, 'receipt')}",
                *(f"note: {note}" for note in self.notes),
            ]
        )

    def _money(self) -> Iterator[str]:
        if self.price is not None:
            yield f"costs about {self.cost}: {counted(self.nodes, 'machine')} at {self.price} an hour"


def predict(plan: Plan, cluster: Cluster) -> Prediction:
    """Simulate a plan on a cluster."""
    needs = Needs(plan)
    loads = {unit.id: _load(plan, unit, cluster, needs) for unit in plan.units}
    varied = {unit: _varied(unit, load) for unit, load in loads.items()}
    trace = simulate(plan, cluster, varied, S3Sink.memory if cluster.remote else 0)
    storage, nodes = cluster.storage, cluster.nodes
    alone = [
        load.read / storage.read_each + load.alone + load.handover + load.write / storage.write_each + cluster.record
        for load in loads.values()
    ]
    on_host = cluster.beside is not None and {unit.id for unit in plan.units if needs.on_host(unit)}
    of_devices = [load for unit, load in loads.items() if not on_host or unit not in on_host]
    of_cores = [load for unit, load in loads.items() if on_host and unit in on_host]
    bounds = {
        "compute": sum(load.crowded for load in of_devices) / cluster.all_lanes,
        "cores": sum(load.crowded for load in of_cores) / max(1, cluster.cores * nodes),
        "read": sum(load.read for load in loads.values()) / storage.read / nodes,
        "client": sum(load.read for load in of_devices) / cluster.client / nodes / cluster.devices,
        "write": sum(load.write for load in loads.values()) / storage.write / nodes,
        "handing over": sum(load.handover for load in of_devices) / nodes / cluster.devices / cluster.process.slots,
        "running units": sum(alone) / cluster.all_units,
        "the longest unit": max(alone, default=0.0),
        "start and end": cluster.start + cluster.end,
    }
    return Prediction(
        seconds=trace.seconds,
        bottleneck=max(bounds, key=lambda name: bounds[name]),
        bounds=bounds,
        utilisation={
            "compute": trace.computing / cluster.all_lanes / trace.seconds,
            "read": bounds["read"] / trace.seconds,
            "write": bounds["write"] / trace.seconds,
        },
        units=len(plan.units),
        slots=cluster.all_slots,
        devices=cluster.all_devices,
        bytes_in=plan.bytes_in,
        bytes_out=plan.bytes_out,
        requests=_requests(plan),
        precision=plan.settings.precision,
        notes=cluster.notes,
        nodes=nodes,
        price=cluster.price,
        cost=None if cluster.price is None else cluster.price.times(nodes * trace.seconds / 3600),
    )


def _load(plan: Plan, unit: Unit, cluster: Cluster, needs: Needs) -> Load:
    pieces = [(plan.tensors[number], last - first) for number, first, last in unit.pieces]
    precision = plan.settings.precision
    works = [work(tensor, plan.dispositions(tensor), size, precision) for tensor, size in pieces]
    copied = 2.0 * sum(size for tensor, size in pieces if len(tensor.sources) == 1)  # checked and cast
    moved = float(unit.bytes_in + unit.bytes_out)  # inputs to a device once, as they are stored, and the result back

    def seconds(speed: Speed) -> float:
        transfer = moved / speed.transfer if speed.transfer else 0.0
        return sum(speed.seconds(one) for one in works) + transfer + copied / speed.elementwise

    read = 0.0 if math.isinf(cluster.storage.read) else float(unit.bytes_in)
    write = 0.0 if math.isinf(cluster.storage.write) else float(unit.bytes_out)
    if cluster.beside is not None and needs.on_host(unit):
        return Load(read, seconds(CORE), seconds(CORE), write)
    return Load(read, seconds(cluster.alone), seconds(cluster.crowded), write, unit.bytes_out / cluster.handover)


def _requests(plan: Plan) -> Requests:
    """The requests of a run to object storage, without headers, listings and the lock's heartbeat."""
    shards, units = len(plan.shards), len(plan.units)
    gets = sum(request_count(plan.reads(unit)) for unit in plan.units)
    parts = len(plan.results) * sum(len(sizes) for _, sizes in plan.parts.values())
    return Requests(gets, parts, shards, shards, units)


def _varied(unit: str, load: Load) -> Load:
    """The load with small deviations in each phase, always the same for a unit.

    Without them, units of one size that start together would always read together and compute together.
    """
    chance = random.Random(unit)
    read, compute, write = (chance.uniform(1 - _VARIATION, 1 + _VARIATION) for _ in range(3))
    return Load(load.read * read, load.alone * compute, load.crowded * compute, load.write * write, load.handover)


def span(seconds: float) -> str:
    """Seconds as people say them."""
    if seconds < 120:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
