"""Running one unit: read K+1 ranges, merge, calibrate, cast once, write one range, return a receipt."""

from __future__ import annotations

import dataclasses
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import torch
import xxhash
from torch import Tensor

from svc_dist.checkpoint.dtype import FLOAT_DTYPES, torch_dtype
from svc_dist.errors import DamagedInputError, NumericsError
from svc_dist.linalg.finite import all_finite, same_bytes
from svc_dist.methods.apply import MergedChunk, ResultParameters, merged_chunks
from svc_dist.methods.chunking import CHUNK
from svc_dist.methods.deltas import Copy, TaskDeltas
from svc_dist.methods.low_rank import LowRank
from svc_dist.methods.overlap import delta_overlap
from svc_dist.plan.costs import row_of, takes_matrices
from svc_dist.plan.model import Plan, Span, Unit
from svc_dist.plan.tensors.copies import require_equal_copies
from svc_dist.run.devices.fallback import Attempt, attempted, attempts
from svc_dist.run.inputs.joined import JoinedViews
from svc_dist.run.inputs.views import TensorInputs
from svc_dist.run.pairs.unit_pairs import UnitPairs
from svc_dist.run_folder.receipt import Receipt, WrittenRange
from svc_dist.storage.access import DEFAULT_ACCESS
from svc_dist.storage.reading import MappedRanges, Source, map_ranges
from svc_dist.storage.writing.base import RangeSink

_RELEASE_EVERY = 16  # chunks after which the pages of the inputs are released
_Records = list[dict[str, Any]]  # summaries of matrices or of deltas, each with its ``tensor``


def run_unit(
    plan: Plan,
    unit: Unit,
    sources: list[Source],
    sink: RangeSink,
    scratch: str | None = None,
    parallel: int = DEFAULT_ACCESS.parallel,
    ways: Sequence[Attempt] | None = None,
) -> Receipt:
    """Run one unit of a plan. Running it again, anywhere, writes the same bytes.

    When memory runs out, the unit runs again on the low-memory path, and last on the CPU: the receipt records it, and
    the last bits may differ. ``ways``: the attempts, by default all of the plan's device. ``sources``: one per input of
    the plan; ``scratch`` and ``parallel`` as in ``map_ranges``. Raises DamagedInputError (NaN, Inf) and NumericsError
    naming the tensor, UnitsFailedError when memory ran out in every attempt, DeviceFailedError, DeviceTooSmallError,
    ChangedInputError, StorageError.
    """
    began = time.perf_counter()
    with map_ranges(sources, plan.reads(unit), scratch, parallel) as inputs:
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
    matrices: list[_Records] = [[] for _ in shards]
    overlaps: _Records = []
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
        for span in plan.spans(unit):
            if span[0].factor is not None:
                for result, values in pairs.results(span[0], matrices, overlaps):
                    emit(result, values.view(torch.uint8).numpy().data)
                continue
            with JoinedViews(scratch) as joined:
                piece = _UnitTensor(plan, span, mapped, attempt, joined)
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
        deltas=overlaps,
        retries=sum(writer.retries.count for writer in writers),
    )


class _UnitTensor:
    """A span of elements of one tensor, with the views of its inputs (base first; None: the base's)."""

    def __init__(
        self, plan: Plan, span: Span, mapped: list[MappedRanges], attempt: Attempt, joined: JoinedViews
    ) -> None:
        self.plan, self.attempt = plan, attempt
        self.tensor, self.first, self.last, merged = span
        self.dispositions = plan.dispositions(self.tensor)
        self.disposition = self.dispositions[0]  # the others differ only in their parameters
        self.mapped = mapped
        self.copies = not merged or self.disposition.kind == "copied"
        self.inputs = TensorInputs(plan, self.tensor, self.first, self.last, mapped, joined)
        self.views, self.base, self.changes = self.inputs.views, self.inputs.base, self.inputs.changes
        self.dtype = torch_dtype(self.tensor.dtype) if self.tensor.dtype in FLOAT_DTYPES else torch.uint8

    def results(self, matrices: list[_Records], overlaps: _Records) -> Iterator[tuple[int, Tensor]]:
        """The elements of each result in order, with its number, as flat tensors in the output dtype.

        Appends summaries to ``matrices``, one list per result, and to ``overlaps``.
        """
        if self.last == self.first:
            return
        if self.tensor.copies:
            inputs = [(one.location, mapped) for one, mapped in zip(self.plan.inputs, self.mapped, strict=True)]
            require_equal_copies(self.tensor.name, self.tensor.repeated(self.first, self.last), inputs)
        steps = self._merged(matrices, overlaps)
        if self.copies:
            steps = ((number, values) for values in self._copied() for number in range(len(self.dispositions)))
        for count, step in enumerate(steps):
            yield step
            if count % _RELEASE_EVERY == _RELEASE_EVERY - 1:
                for ranges in self.mapped:
                    ranges.release()

    def _copied(self) -> Iterator[Tensor]:
        if self.changes:  # the base's tensor, or one that the adapter stores, plus the adapter's delta
            deltas = TaskDeltas(
                [None], self.base, changes=self.changes, precision=self.plan.settings.precision, row=self.tensor.row
            )
            for chunk in deltas.chunks():
                yield self._fitting(chunk.model(0))
            return
        for start in range(0, self.base.numel(), CHUNK):
            part = self.base[start : start + CHUNK]
            if part.is_floating_point() and bool(part.isnan().any()):
                raise self._damaged()
            yield self._cast(part)

    def _merged(self, matrices: list[_Records], overlaps: _Records) -> Iterator[tuple[int, Tensor]]:
        assert self.disposition.method is not None
        parameters = [dict(one.parameters or {}) for one in self.dispositions]
        scales = [float(one.pop("lambda", 1.0)) for one in parameters]
        calibrations = (one.calibration for one in self.dispositions)
        results = list(map(ResultParameters, parameters, calibrations))
        batch = None
        if self.tensor.batch is not None and takes_matrices(self.tensor, self.dispositions):
            _, rows, columns = self.tensor.batch
            batch = ((self.last - self.first) // (rows * columns), rows, columns)
        deltas = TaskDeltas(
            self.views[1:],
            self.base,
            changes=self.changes or None,
            precision=self.plan.settings.precision,
            device=self.attempt.device,
            low_memory=self.attempt.low_memory,
            tensor=self.tensor.tied_to or self.tensor.name,
            offset=self.first,
            row=row_of(self.tensor, self.dispositions),
        )
        summaries: list[_Records] = [[] for _ in results]
        try:
            for number, chunk in merged_chunks(
                deltas, self.disposition.method, results, batch, summaries, self.tensor.turned
            ):
                for start in range(0, chunk.end - chunk.start, CHUNK):
                    end = min(start + CHUNK, chunk.end - chunk.start)
                    yield number, self._output(chunk, start, end, scales[number])
                del chunk  # free its memory before the next one is computed
        except NumericsError as error:
            raise self._damaged(error) from None
        for of_result, new in zip(matrices, summaries, strict=True):
            of_result += [{"tensor": self.tensor.name, **summary} for summary in new]
        models = self.disposition.models
        if not self.disposition.alone and (overlap := delta_overlap(deltas)) is not None:
            of = {} if models is None else {"models": list(models)}
            overlaps.append({"tensor": self.tensor.name, **of, **overlap})

    def _output(self, chunk: MergedChunk, start: int, end: int, scale: float) -> Tensor:
        """``W0 + lambda * M`` for elements ``[start, end)`` of a merged chunk, checked and cast."""
        merged = chunk.merged
        if isinstance(merged, Tensor | LowRank):
            # The base of a small chunk is still in the cache; of a matrix only these elements are converted.
            deltas = chunk.deltas if chunk.deltas.numel <= CHUNK else chunk.deltas.chunk(start, end)
            if isinstance(merged, Tensor):
                delta = merged[start:end]
            else:
                delta = merged.chunk(start, end).dense(deltas.dtype, deltas.device)
            total = torch.add(deltas.base.view(-1), delta, alpha=scale)
        elif isinstance(merged, Copy) and self.changes and self.changes[merged.expert] is not None:
            total = chunk.deltas.chunk(start, end).model(merged.expert)
        else:
            view = None if merged is None else self.views[1 + merged.expert]
            total = (self.base if view is None else view)[chunk.start + start : chunk.start + end]
        return self._fitting(
            total, [view[chunk.start + start : chunk.start + end] for view in self.views if view is not None]
        )

    def _fitting(self, total: Tensor, inputs: Sequence[Tensor] = ()) -> Tensor:
        """Entries of the result, checked and cast. Where all ``inputs`` agree, as in a mask of -inf, they stay."""
        low, high = (float(value) for value in torch.aminmax(total))
        if not max(-low, high) <= torch.finfo(self.dtype).max:
            if (
                any(one is not None for one in self.changes)
                or not inputs
                or all_finite(inputs[0])
                or not same_bytes(*inputs)
            ):
                raise self._damaged()
            return self._cast(inputs[0])
        return self._cast(total)

    def _cast(self, values: Tensor) -> Tensor:
        cast = values.to(self.dtype).cpu()
        narrowed = self.copies and values.dtype != self.dtype
        if narrowed and not all_finite(cast) and all_finite(values):
            raise self._damaged()
        return cast

    def _damaged(self, error: NumericsError | None = None) -> DamagedInputError | NumericsError:
        """Why a result is not finite: an input is damaged (file, tensor, element), or the arithmetic overflowed."""
        damaged = self.inputs.damaged(nan_only=self.copies)
        if damaged is not None:
            return damaged
        what = f"by {self.disposition.method}" if self.disposition.method else "copied"
        if error is not None:
            return NumericsError(f"tensor {self.tensor.name!r} ({what}): {error.message}", error.hint)
        return NumericsError(
            f"tensor {self.tensor.name!r} ({what}): the result does not fit into {FLOAT_DTYPES[self.tensor.dtype]}",
            "write a wider `dtype`, or lower `lambda` or the weights in the recipe",
        )
