"""Weights that are written in codes: merged some rows at a time, then encoded."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from svc_dist.checkpoint.dtype import FLOAT_DTYPES, torch_dtype
from svc_dist.checkpoint.formats.codecs.codec import Codec
from svc_dist.checkpoint.formats.codecs.texts import codec_of
from svc_dist.checkpoint.formats.written import together
from svc_dist.errors import NumericsError
from svc_dist.linalg.finite import all_finite
from svc_dist.plan.costs import SLICE, slices_of
from svc_dist.plan.inputs import InputRange
from svc_dist.plan.model import Plan, Unit
from svc_dist.plan.quantised.decoding import stored_rows
from svc_dist.plan.tensor import PlannedTensor
from svc_dist.run.devices.fallback import Attempt
from svc_dist.run.inputs.joined import JoinedViews
from svc_dist.run.results.encoding import Parts, Stored, encoded, unchanged_blocks
from svc_dist.run.results.upper_scales import MergedWeight, choose_wholes
from svc_dist.run.results.values import Records, TensorValues
from svc_dist.storage.reading import MappedRanges


class UnitCodes:
    """The weights of a unit that are written in codes, in the order of its spans.

    Blocks that are what the base has keep its codes and scales: encoding what codes stand for does not always give the
    same ones. All others are encoded from the dtype of the planned tensor, so that a result in codes is that of the
    same merge without them, rounded by the format.
    """

    def __init__(
        self, plan: Plan, unit: Unit, mapped: list[MappedRanges], attempt: Attempt, scratch: str | None
    ) -> None:
        self._plan, self._unit, self._mapped, self._attempt, self._scratch = plan, unit, mapped, attempt, scratch
        self._parts: dict[str, list[Iterator[Parts]]] = {}  # of weights that one scale is above, in each result

    def results(
        self, tensor: PlannedTensor, matrices: list[Records], overlaps: Records
    ) -> Iterator[tuple[int, memoryview]]:
        """The bytes of each result in order, with its number: all codes, then each companion.

        Appends summaries to ``matrices``, one list per result, and to ``overlaps``.
        """
        if (slot := self._as_stored(tensor)) is not None:
            yield from self._copied(tensor, slot)
            return
        codes, *companions = (one.part.suffix for one in tensor.written if one.part is not None)
        beside: list[dict[str, list[Tensor]]] = [{} for _ in self._plan.results]
        for number, parts in self._encoded(tensor, matrices, overlaps):
            for suffix, rows in parts.items():
                if suffix == codes:
                    yield number, _data(rows)
                else:
                    beside[number].setdefault(suffix, []).append(rows)
        for number, of_result in enumerate(beside):
            yield from ((number, _data(rows)) for suffix in companions for rows in of_result.get(suffix, ()))

    def _as_stored(self, tensor: PlannedTensor) -> InputRange | None:
        """The source whose bytes a weight gets as they are: it is copied, and so is all that is run as one with it."""
        slots = [self._copy_of(one) for one in self._run_as_one(tensor)]
        if any(slot is None for slot in slots) or len({slot.input for slot in slots if slot is not None}) > 1:
            return None
        return self._copy_of(tensor)

    def _copy_of(self, tensor: PlannedTensor) -> InputRange | None:
        slot, plain = tensor.sources[0], not (tensor.factors or tensor.base_factors or tensor.copies)
        copied = plain and self._plan.dispositions(tensor)[0].kind == "copied"
        return slot if copied and slot is not None and _takes(tensor, slot) else None

    def _run_as_one(self, tensor: PlannedTensor) -> list[PlannedTensor]:
        """The unit's weights that have one upper scale with this one: itself, and maybe others."""
        key = together(tensor.name, tensor.codec)
        every = [tensor] if key == tensor.name and not _codec(tensor).of_the_whole else self._tensors()
        return [one for one in every if together(one.name, one.codec) == key]

    def _tensors(self) -> list[PlannedTensor]:
        return [self._plan.tensors[number] for number, _, _ in self._unit.pieces]

    def _copied(self, tensor: PlannedTensor, slot: InputRange) -> Iterator[tuple[int, memoryview]]:
        every = list(slot.slabs(0, math.prod(tensor.shape)))
        parts = _codec(tensor).parts
        for written in tensor.written:
            assert written.part is not None
            number = parts.index(written.part)
            for slab in every:
                data = self._mapped[slot.input].view(slab.range_of(number, slab.begin, slab.end))
                yield from ((result, data) for result in range(len(self._plan.results)))

    def _encoded(
        self, tensor: PlannedTensor, matrices: list[Records], overlaps: Records
    ) -> Iterator[tuple[int, Parts]]:
        """Rows of the stored tensors of each result, in order."""
        if _codec(tensor).of_the_whole:
            if tensor.name not in self._parts:
                self._merge_as_one(tensor, matrices, overlaps)
            for number, rows in enumerate(self._parts.pop(tensor.name)):
                yield from ((number, parts) for parts in rows)
            return
        stored = self._stored(tensor)
        for first, last in slices_of(tensor, self._plan.dispositions(tensor)):
            values, unchanged = self._merged(tensor, [(first, last)], matrices, overlaps)
            for number, (of_result, kept) in enumerate(zip(values, unchanged, strict=True)):
                rows = encoded(_codec(tensor), of_result, first, self._attempt.device, stored, kept)
                yield from ((number, parts) for parts in rows)

    def _merge_as_one(self, tensor: PlannedTensor, matrices: list[Records], overlaps: Records) -> None:
        """Merge the weights that have one upper scale, and choose it: they stay in scratch space until then."""
        by_result: list[list[MergedWeight]] = [[] for _ in self._plan.results]
        members = self._run_as_one(tensor)
        for one in members:
            slices = slices_of(one, self._plan.dispositions(one))
            merged = zip(*self._merged(one, slices, matrices, overlaps), strict=True)
            model = None if one.sources[0] is None else one.sources[0].input
            for weights, (values, kept) in zip(by_result, merged, strict=True):
                weights.append(MergedWeight(_codec(one), values, kept, self._stored(one), model))
        for weights in by_result:
            choose_wholes(weights)
        for one, of_results in zip(members, zip(*by_result, strict=True), strict=True):
            self._parts[one.name] = [weight.encoded(self._attempt.device) for weight in of_results]

    def _merged(
        self,
        tensor: PlannedTensor,
        slices: list[tuple[int, int]],
        matrices: list[Records],
        overlaps: Records,
    ) -> tuple[list[Tensor], list[Tensor | None]]:
        """The values of neighbouring slices in each result, and which blocks of them are what the base has."""
        start, count = slices[0][0], slices[-1][1] - slices[0][0]
        codec, compared = _codec(tensor), self._stored(tensor) is not None
        with JoinedViews(self._scratch) as rooms:
            values = [_room(rooms, count, tensor.dtype) for _ in self._plan.results]
        unchanged: list[list[Tensor]] = [[] for _ in values]
        for first, last in slices:
            ends = [first - start] * len(values)
            with JoinedViews(self._scratch) as joined:
                span = (tensor, first, last, True)
                piece = TensorValues(self._plan, span, self._mapped, self._attempt, joined)
                for number, chunk in piece.results(matrices, overlaps):
                    if not all_finite(chunk):
                        raise NumericsError(
                            f"tensor {tensor.name!r}: it has infinite entries, which its format cannot hold",
                            f"write `quantization: none` for a model in {FLOAT_DTYPES[tensor.dtype]}",
                        )
                    values[number][ends[number] : ends[number] + chunk.numel()] = chunk
                    ends[number] += chunk.numel()
                for blocks, of_result in zip(unchanged, values, strict=True) if compared else ():
                    new = of_result[first - start : last - start]
                    blocks.append(unchanged_blocks(codec, new, piece.inputs.base, first))
        return values, [torch.cat(blocks) if compared else None for blocks in unchanged]

    def _stored(self, tensor: PlannedTensor) -> Stored | None:
        """What the first source stores of a weight, where that is in the result's own format."""
        slot = tensor.sources[0]
        if slot is None or not _takes(tensor, slot) or tensor.base_factors or tensor.maps is not None:
            return None
        every = list(slot.slabs(0, math.prod(tensor.shape)))
        mapped = self._mapped[slot.input]
        return lambda matrix, begin, end: stored_rows(every[matrix], mapped, begin, end)


def _codec(tensor: PlannedTensor) -> Codec:
    return codec_of(tensor.codec or "")


def _takes(tensor: PlannedTensor, slot: InputRange) -> bool:
    """Whether what a model stores can stand in the result as it is."""
    return slot.codec is not None and _codec(tensor).takes(codec_of(slot.codec))


def _room(rooms: JoinedViews, count: int, dtype: str) -> Tensor:
    return torch.empty(count, dtype=torch_dtype(dtype)) if count <= SLICE else rooms.room(count, dtype)


def _data(rows: Tensor) -> memoryview:
    return rows.contiguous().view(-1).view(torch.uint8).numpy().data
