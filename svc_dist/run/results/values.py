"""The merged values of a span of one tensor: merged or copied, checked, and cast once."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from svc_dist.checkpoint.dtype import FLOAT_DTYPES, torch_dtype
from svc_dist.errors import DamagedInputError, NumericsError
from svc_dist.linalg.devices.grain import on_the_cpu
from svc_dist.linalg.devices.transfer import received
from svc_dist.linalg.finite import all_finite, same_bytes
from svc_dist.methods.apply import MergedChunk, ResultParameters, merged_chunks
from svc_dist.methods.chunking import CHUNK
from svc_dist.methods.conditions.difference import Differing
from svc_dist.methods.deltas import Copy, TaskDeltas
from svc_dist.methods.elementwise.plain.pieces import stored
from svc_dist.methods.low_rank import LowRank
from svc_dist.methods.overlap import delta_overlap
from svc_dist.plan.costs import inputs_that_stay, row_of, takes_matrices
from svc_dist.plan.model import Plan
from svc_dist.plan.tensor import Span
from svc_dist.plan.tensors.copies import require_equal_copies
from svc_dist.run.devices.fallback import Attempt
from svc_dist.run.inputs.joined import JoinedViews
from svc_dist.run.inputs.views import TensorInputs
from svc_dist.run.results.on_device import cast_on_device
from svc_dist.storage.reading import MappedRanges

_RELEASE_EVERY = 16  # chunks after which the pages of the inputs are released
#: Summaries of matrices or of deltas, each with its ``tensor``.
Records = list[dict[str, Any]]


class TensorValues:
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
        #: The deltas of inputs that lie on the device already, if they do.
        self.there: TaskDeltas | None = None
        self.dtype = torch_dtype(self.tensor.dtype) if self.tensor.dtype in FLOAT_DTYPES else torch.uint8

    def results(self, matrices: list[Records], overlaps: Records) -> Iterator[tuple[int, Tensor]]:
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

    def _merged(self, matrices: list[Records], overlaps: Records) -> Iterator[tuple[int, Tensor]]:
        assert self.disposition.method is not None
        batch = None
        if self.tensor.batch is not None and takes_matrices(self.tensor, self.dispositions):
            _, rows, columns = self.tensor.batch
            batch = ((self.last - self.first) // (rows * columns), rows, columns)
        deltas = self.deltas if self.there is None else self.there
        summaries: list[Records] = [[] for _ in self.steps]
        differing = self._differing(deltas)
        stay = 0
        if batch is not None and not on_the_cpu(self.attempt.device) and not self.attempt.low_memory:
            stay = inputs_that_stay(self.tensor, self.dispositions, self.plan.settings.precision)
        chunks = merged_chunks(
            deltas, self.disposition.method, self.steps, batch, summaries, self.tensor.turned, differing, stay
        )
        for number, chunk in self._named(chunks):
            for values in self.outputs(chunk, number):
                yield number, values
            del chunk  # free its memory before the next one is computed
        self.record(summaries, matrices, overlaps)
        overlaps += differing.records(self.tensor.name, self.disposition.models)

    def _named(self, chunks: Iterator[tuple[int, MergedChunk]]) -> Iterator[tuple[int, MergedChunk]]:
        """Merged chunks; where they cannot be computed, the error names the tensor."""
        try:
            yield from chunks
        except NumericsError as error:
            raise self._damaged(error) from None

    @cached_property
    def steps(self) -> list[ResultParameters]:
        """What each result is merged by."""
        every = ((one, one.parameters or {}) for one in self.dispositions)
        return [
            ResultParameters({key: given[key] for key in given if key != "lambda"}, one.calibration)
            for one, given in every
        ]

    @cached_property
    def scales(self) -> list[float]:
        """``lambda`` of each result."""
        return [float((one.parameters or {}).get("lambda", 1.0)) for one in self.dispositions]

    @cached_property
    def deltas(self) -> TaskDeltas:
        """The task deltas, formed on the attempt's device from the mapped inputs."""
        return TaskDeltas(
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

    def record(self, summaries: Sequence[Records], matrices: list[Records], overlaps: Records) -> None:
        """Append what a receipt says of the tensor. ``summaries``: of its matrices, by result."""
        for of_result, new in zip(matrices, summaries, strict=True):
            of_result += [{"tensor": self.tensor.name, **summary} for summary in new]
        models = self.disposition.models
        if not self.disposition.alone and (overlap := delta_overlap(self.deltas)) is not None:
            of = {} if models is None else {"models": list(models)}
            overlaps.append({"tensor": self.tensor.name, **of, **overlap})

    def _differing(self, deltas: TaskDeltas) -> Differing:
        """Which results merge which of the tensor's matrices, or the tensor."""
        least = [one.least_difference for one in self.dispositions]
        if self.tensor.batch is None or self.tensor.batch[0] == 1:
            return Differing(deltas, least, deltas.numel)
        size = math.prod(self.tensor.batch[1:])
        return Differing(deltas, least, size, self.first // size)

    def outputs(self, chunk: MergedChunk, result: int) -> Iterator[Tensor]:
        """``W0 + lambda * M`` for a merged chunk of a result, checked and cast, in parts."""
        scale = self.scales[result]
        if isinstance(chunk.merged, Tensor | LowRank) and not on_the_cpu(self.attempt.device):
            cast = cast_on_device(chunk, scale, self.dtype)
            if cast is not None:
                yield from received(cast)
                return
        for start in range(0, chunk.end - chunk.start, CHUNK):
            yield self._output(chunk, start, min(start + CHUNK, chunk.end - chunk.start), scale)

    def _output(self, chunk: MergedChunk, start: int, end: int, scale: float) -> Tensor:
        """``W0 + lambda * M`` for elements ``[start, end)`` of a merged chunk, checked and cast."""
        merged = chunk.merged
        if isinstance(merged, Tensor) and end - start == merged.numel() and scale == 1 and self.dtype == torch.bfloat16:
            fast = stored(chunk.deltas)
            if fast is not None and (values := fast.added(merged)) is not None:
                return values
        if isinstance(merged, Tensor | LowRank):
            # The base of a small chunk is still in the cache; of a matrix only these elements are converted.
            deltas = chunk.deltas if chunk.deltas.numel <= CHUNK else chunk.deltas.chunk(start, end)
            if isinstance(merged, Tensor):
                delta = merged if end - start == merged.numel() else merged[start:end]
            else:
                delta = merged.chunk(start, end).dense(deltas.dtype, deltas.device)
            base = deltas.base if deltas.base.dim() == 1 else deltas.base.view(-1)
            total = torch.add(base, delta, alpha=scale, out=delta if len(self.dispositions) == 1 else None)
        elif isinstance(merged, Copy) and self.changes and self.changes[merged.expert] is not None:
            total = chunk.deltas.chunk(start, end).model(merged.expert)
        else:
            view = None if merged is None else self.views[1 + merged.expert]
            total = (self.base if view is None else view)[chunk.start + start : chunk.start + end]
        return self._fitting(total, (chunk.start + start, chunk.start + end))

    def _fitting(self, total: Tensor, span: tuple[int, int] | None = None) -> Tensor:
        """Entries of the result, checked and cast. Where all inputs of ``span`` agree, as in a mask of -inf, they
        stay."""
        low, high = (float(value) for value in torch.aminmax(total))
        if not max(-low, high) <= torch.finfo(self.dtype).max:
            inputs = [view[slice(*span)] for view in self.views if view is not None] if span is not None else []
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
