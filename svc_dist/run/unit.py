"""Running one unit: read K+1 ranges, merge, calibrate, cast once, write one range, return a receipt."""

from __future__ import annotations

import dataclasses
import socket
import time
from collections.abc import Sequence
from contextlib import ExitStack

import torch
import xxhash

from svc_dist.plan.model import Plan, Unit
from svc_dist.run.devices.fallback import Attempt, attempted, attempts
from svc_dist.run.inputs.joined import JoinedViews
from svc_dist.run.pairs.unit_pairs import UnitPairs
from svc_dist.run.results.codes import UnitCodes
from svc_dist.run.results.values import Records, TensorValues
from svc_dist.run_folder.receipt import Receipt, WrittenRange
from svc_dist.storage.access import DEFAULT_ACCESS
from svc_dist.storage.landing import Landing
from svc_dist.storage.reading import MappedRanges, Source, map_ranges
from svc_dist.storage.writing.base import RangeSink


def run_unit(
    plan: Plan,
    unit: Unit,
    sources: list[Source],
    sink: RangeSink,
    scratch: str | None = None,
    parallel: int = DEFAULT_ACCESS.parallel,
    ways: Sequence[Attempt] | None = None,
    landing: Landing | None = None,
) -> Receipt:
    """Run one unit of a plan. Running it again, anywhere, writes the same bytes.

    When memory runs out, the unit runs again on the low-memory path, and last on the CPU: the receipt records it, and
    the last bits may differ. ``ways``: the attempts, by default all of the plan's device. ``sources``: one per input of
    the plan; ``scratch``, ``parallel`` and ``landing`` as in ``map_ranges``. Raises DamagedInputError (NaN, Inf) and
    NumericsError naming the tensor, UnitsFailedError when memory ran out in every attempt, DeviceFailedError,
    DeviceTooSmallError, ChangedInputError, StorageError.
    """
    began = time.perf_counter()
    with map_ranges(sources, plan.reads(unit), scratch, parallel, landing) as inputs:
        reading = time.perf_counter() - began
        ways = attempts(plan.settings.device) if ways is None else ways
        receipt = attempted(plan, unit, ways, lambda way: _run(plan, unit, inputs.mapped, sink, way, scratch))
    seconds = receipt.seconds | {"read": reading}
    return dataclasses.replace(receipt, seconds=seconds, retries=receipt.retries + inputs.retries.count)


def _run(
    plan: Plan, unit: Unit, mapped: list[MappedRanges], sink: RangeSink, attempt: Attempt, scratch: str | None
) -> Receipt:
    """Merge and write a unit whose inputs are mapped."""
    began = time.perf_counter()
    shards = plan.shards_of(unit.shard)
    digests = [xxhash.xxh3_128() for _ in shards]
    writing = 0.0
    matrices: list[Records] = [[] for _ in shards]
    overlaps: Records = []
    with ExitStack() as stack:
        first_part, parts = plan.parts[unit.id]
        writers = [
            stack.enter_context(sink.write_range(plan.shards[shard], unit.start, unit.end, first_part, parts))
            for shard in shards
        ]

        def emit(result: int, data: memoryview) -> None:
            nonlocal writing
            start = time.perf_counter()
            digests[result].update(data)
            writers[result].write(data)
            writing += time.perf_counter() - start

        if unit.start == 0:
            header = memoryview(plan.header(unit.shard))
            for result in range(len(shards)):
                emit(result, header)
        pairs = UnitPairs(plan, mapped, attempt, scratch)
        codes = UnitCodes(plan, unit, mapped, attempt, scratch)
        for span in plan.spans(unit):
            if span[0].factor is not None:
                for result, values in pairs.results(span[0], matrices, overlaps):
                    emit(result, values.view(torch.uint8).numpy().data)
                continue
            if span[0].codec is not None:
                for result, data in codes.results(span[0], matrices, overlaps):
                    emit(result, data)
                continue
            with JoinedViews(scratch) as joined:
                piece = TensorValues(plan, span, mapped, attempt, joined)
                for result, values in piece.results(matrices, overlaps):
                    emit(result, values.view(torch.uint8).numpy().data)
        start = time.perf_counter()
        tokens = [writer.commit() for writer in writers]
        writing += time.perf_counter() - start
    total = time.perf_counter() - began
    return Receipt(
        unit=unit.id,
        fingerprint=plan.fingerprint,
        ranges=tuple(
            WrittenRange(f"xxh3_128:{digest.hexdigest()}", token, summaries)
            for digest, token, summaries in zip(digests, tokens, matrices, strict=True)
        ),
        bytes_in=unit.bytes_in,
        bytes_out=unit.bytes_out,
        seconds={"read": 0.0, "compute": total - writing, "write": writing},
        host=socket.gethostname(),
        device=torch.cuda.get_device_name(attempt.device) if attempt.device.startswith("cuda") else attempt.device,
        low_memory=attempt.low_memory,
        deltas=[one for one in overlaps if "gram" in one],
        differences=[one for one in overlaps if "differences" in one],
        retries=sum(writer.retries.count for writer in writers),
    )
