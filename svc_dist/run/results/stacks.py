"""A unit's tensors one after the other, those that a device merges together from the first of them on."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from svc_dist.linalg.devices.grain import on_the_cpu
from svc_dist.linalg.devices.transfer import received
from svc_dist.methods.apply import MergedChunk
from svc_dist.methods.batches.groups import stacked
from svc_dist.methods.batches.merged import merged_batch
from svc_dist.methods.deltas import TaskDeltas
from svc_dist.plan.devices.stacks import Stacks
from svc_dist.plan.model import Plan, Unit
from svc_dist.plan.tensor import PlannedTensor, Span
from svc_dist.run.devices.fallback import Attempt
from svc_dist.run.inputs.joined import JoinedViews
from svc_dist.run.results.on_device import cast_on_device
from svc_dist.run.results.values import Records, TensorValues
from svc_dist.storage.reading import MappedRanges


@dataclass
class _Ready:
    """A tensor that is merged before its turn: its values in the host's memory, and what its receipt will say."""

    values: list[tuple[int, Tensor]] = field(default_factory=list)
    matrices: list[Records] = field(default_factory=lambda: [[]])
    overlaps: Records = field(default_factory=list)


class UnitStacks:
    """The tensors of a unit, in the order of its spans.

    Matrices that the plan's device merges as a stack are merged when the first of them is asked for. What a stack does
    not take, and what no expert changes, is merged or copied by itself.
    """

    def __init__(
        self, plan: Plan, unit: Unit, mapped: list[MappedRanges], attempt: Attempt, scratch: str | None
    ) -> None:
        self._plan, self._mapped, self._attempt, self._scratch = plan, mapped, attempt, scratch
        tensors = () if on_the_cpu(attempt.device) or attempt.low_memory else (span[0] for span in plan.spans(unit))
        stacks = Stacks(plan.dispositions, plan.settings).of(tensors)
        self._stacks = {tensor.name: stack for stack in stacks for tensor in stack}
        self._ready: dict[str, _Ready] = {}

    def results(self, span: Span, matrices: list[Records], overlaps: Records) -> Iterator[tuple[int, Tensor]]:
        """As ``TensorValues.results``, of a span."""
        name = span[0].name
        if name in self._stacks:
            self._merge(self._stacks[name])
        if (ready := self._ready.pop(name, None)) is None:
            with JoinedViews(self._scratch) as joined:
                yield from self._values(span, joined).results(matrices, overlaps)
            return
        for of_result, new in zip(matrices, ready.matrices, strict=True):
            of_result += new
        overlaps += ready.overlaps
        yield from ready.values

    def _values(self, span: Span, joined: JoinedViews) -> TensorValues:
        return TensorValues(self._plan, span, self._mapped, self._attempt, joined)

    def _merge(self, stack: list[PlannedTensor]) -> None:
        """Merge those of a stack that some expert changes."""
        with JoinedViews(self._scratch) as joined:
            spans = [(tensor, 0, math.prod(tensor.shape), True) for tensor in stack]
            changed = [one for span in spans if not (one := self._values(span, joined)).deltas.all_zero()]
            if len(changed) > 1:
                self._together(changed)
        for tensor in stack:
            del self._stacks[tensor.name]
        for ranges in self._mapped:
            ranges.release()

    def _together(self, tensors: Sequence[TensorValues]) -> None:
        first = tensors[0]
        assert first.tensor.batch is not None
        assert first.disposition.method is not None
        shape = (len(tensors), *first.tensor.batch[1:])
        deltas = stacked([one.deltas for one in tensors], *shape[1:])
        (step,) = first.steps
        found = merged_batch(deltas, first.disposition.method, step.parameters, step.calibration)
        ready = [_Ready() for _ in tensors]
        if found is None:
            for number, (one, its) in enumerate(zip(tensors, ready, strict=True)):
                one.there = deltas.matrix(number, shape)
                its.values = list(one.results(its.matrices, its.overlaps))
        else:
            values = _outputs(tensors, found[0], deltas)
            for one, its, summary, own in zip(tensors, ready, found[1], values, strict=True):
                its.values = [(0, part) for part in own]
                one.record([[summary | {"matrix": 0}]], its.matrices, its.overlaps)
        self._ready |= {one.tensor.name: its for one, its in zip(tensors, ready, strict=True)}


def _outputs(tensors: Sequence[TensorValues], merged: Tensor, deltas: TaskDeltas) -> Iterator[list[Tensor]]:
    """The result of each tensor, in parts. ``merged``: the merged deltas of all ``(b, m, n)``; ``deltas``: all."""
    count, rows, columns = merged.shape
    size = rows * columns
    whole = MergedChunk(0, count * size, merged.reshape(-1), deltas)
    cast = cast_on_device(whole, tensors[0].scales[0], tensors[0].dtype)
    if cast is not None:
        yield from ([one] for part in received(cast, size) for one in part.view(-1, size))
        return
    for number, one in enumerate(tensors):  # a result does not fit into its dtype: the error names its tensor
        matrix = deltas.matrix(number, (count, rows, columns))
        yield list(one.outputs(MergedChunk(0, size, merged[number].reshape(-1), matrix), 0))
