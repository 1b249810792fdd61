"""Running one unit: read K+1 ranges, merge, calibrate, cast once, write one range, return a receipt."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from types import TracebackType

import torch
import xxhash

from svc_dist.plan.model import Plan, Unit
from svc_dist.run.devices.fallback import Attempt, attempted, ways_of
from svc_dist.run.pairs.unit_pairs import UnitPairs
from svc_dist.run.pipeline.needs import Needs
from svc_dist.run.pipeline.stages import Passage, Stages
from svc_dist.run.results.codes import UnitCodes
from svc_dist.run.results.stacks import UnitStacks
from svc_dist.run.results.values import Records
from svc_dist.run_folder.receipt import Receipt, WrittenRange
from svc_dist.storage.access import DEFAULT_ACCESS
from svc_dist.storage.fetching import Connections
from svc_dist.storage.landing import Landing
from svc_dist.storage.reading import MappedRanges, Source, map_ranges
from svc_dist.storage.writing.base import RangeSink, RangeWriter


def run_unit(
    plan: Plan,
    unit: Unit,
    sources: list[Source],
    sink: RangeSink,
    scratch: str | None = None,
    parallel: int = DEFAULT_ACCESS.parallel,
    ways: Sequence[Attempt] | None = None,
    landing: Landing | None = None,
    passage: AbstractContextManager[Passage] | None = None,
    connections: Connections | None = None,
) -> Receipt:
    """Run one unit of a plan. Running it again, anywhere, writes the same bytes.

    When memory runs out, the unit runs again on the low-memory path, and last on the CPU: the receipt records it, and
    the last bits may differ. ``ways``: the attempts, by default all of the plan's device. ``sources``: one per input of
    the plan; ``scratch``, ``parallel``, ``landing`` and ``connections`` as in ``map_ranges``; ``passage``: the unit's
    way beside others.
    Raises DamagedInputError (NaN, Inf) and NumericsError naming the tensor, UnitsFailedError when memory ran out in
    every attempt, DeviceFailedError, DeviceTooSmallError, ChangedInputError, StorageError.
    """
    ways = ways_of(Needs(plan), unit) if ways is None else ways
    with passage or Stages(0, 1).passage(0) as on_way, ExitStack() as written:
        began = time.perf_counter()
        with map_ranges(sources, plan.reads(unit), scratch, parallel, landing, True, connections) as inputs:
            reading = time.perf_counter() - began
            on_way.compute()
            computed = attempted(
                plan, unit, ways, lambda way: _computed(plan, unit, inputs.mapped, sink, way, scratch, on_way)
            )
            written.enter_context(computed)
        on_way.computed()
        on_way.require_going()
        return computed.receipt(plan, unit, reading, inputs.retries.count)


class _Computed:
    """A unit that is merged, and the writers of its ranges, which may still be writing.

    ``began``: when it began to compute; ``compute``, ``write``: seconds of it so far.
    """

    def __init__(self, attempt: Attempt, results: int) -> None:
        self.attempt = attempt
        self.digests = [xxhash.xxh3_128() for _ in range(results)]
        self.matrices: list[Records] = [[] for _ in range(results)]
        self.overlaps: Records = []
        self.writers: list[RangeWriter] = []
        self.compute = self.write = 0.0

    def __enter__(self) -> _Computed:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with ExitStack() as stack:
            for writer in self.writers:
                stack.push(writer)

    def emit(self, result: int, data: memoryview) -> None:
        """Hand bytes of a result over to its writer."""
        start = time.perf_counter()
        self.digests[result].update(data)
        self.writers[result].write(data)
        self.write += time.perf_counter() - start

    def receipt(self, plan: Plan, unit: Unit, reading: float, retries: int) -> Receipt:
        """Make the ranges durable, and return the proof."""
        start = time.perf_counter()
        tokens = [writer.commit() for writer in self.writers]
        self.write += time.perf_counter() - start
        device = self.attempt.device
        return Receipt(
            unit=unit.id,
            fingerprint=plan.fingerprint,
            ranges=tuple(
                WrittenRange(f"xxh3_128:{digest.hexdigest()}", token, summaries)
                for digest, token, summaries in zip(self.digests, tokens, self.matrices, strict=True)
            ),
            bytes_in=unit.bytes_in,
            bytes_out=unit.bytes_out,
            seconds={"read": reading, "compute": self.compute, "write": self.write},
            host=socket.gethostname(),
            device=torch.cuda.get_device_name(device) if device.startswith("cuda") else device,
            low_memory=self.attempt.low_memory,
            deltas=[one for one in self.overlaps if "gram" in one],
            differences=[one for one in self.overlaps if "differences" in one],
            retries=retries + sum(writer.retries.count for writer in self.writers),
        )


def _computed(
    plan: Plan,
    unit: Unit,
    mapped: list[MappedRanges],
    sink: RangeSink,
    attempt: Attempt,
    scratch: str | None,
    on_way: Passage,
) -> _Computed:
    """Merge a unit whose inputs are mapped, and hand its bytes to writers, which stay open."""
    began = time.perf_counter()
    shards = plan.shards_of(unit.shard)
    computed = _Computed(attempt, len(shards))
    with ExitStack() as failed:
        failed.enter_context(computed)
        first_part, parts = plan.parts[unit.id]
        for shard in shards:
            writer = sink.write_range(plan.shards[shard], unit.start, unit.end, first_part, parts)
            computed.writers.append(writer.__enter__())
        if unit.start == 0:
            header = memoryview(plan.header(unit.shard))
            for result in range(len(shards)):
                computed.emit(result, header)
        for result, data in _merged(plan, unit, mapped, attempt, scratch, computed):
            on_way.require_going()
            computed.emit(result, data)
        failed.pop_all()
    computed.compute = time.perf_counter() - began - computed.write
    return computed


def _merged(
    plan: Plan, unit: Unit, mapped: list[MappedRanges], attempt: Attempt, scratch: str | None, computed: _Computed
) -> Iterator[tuple[int, memoryview]]:
    """The bytes of each result in order, with its number."""
    matrices, overlaps = computed.matrices, computed.overlaps
    pairs = UnitPairs(plan, mapped, attempt, scratch)
    codes = UnitCodes(plan, unit, mapped, attempt, scratch)
    stacks = UnitStacks(plan, unit, mapped, attempt, scratch)
    for span in plan.spans(unit):
        if span[0].factor is not None:
            for result, values in pairs.results(span[0], matrices, overlaps):
                yield result, values.view(torch.uint8).numpy().data
            continue
        if span[0].codec is not None:
            yield from codes.results(span[0], matrices, overlaps)
            continue
        for result, values in stacks.results(span, matrices, overlaps):
            yield result, values.view(torch.uint8).numpy().data
