"""The inputs of one tensor's elements as views in storage dtype, and what adapters add to them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from svc_dist.checkpoint.dtype import FLOAT_DTYPES, bytes_of
from svc_dist.checkpoint.tensor_view import tensor_view
from svc_dist.errors import DamagedInputError
from svc_dist.methods.blocks import Blocks
from svc_dist.methods.chunking import CHUNK
from svc_dist.methods.deltas import TaskDeltas
from svc_dist.methods.dora import Rescaled, gains_of
from svc_dist.methods.low_rank import Change, LowRank
from svc_dist.plan.inputs import Added, FactorRanges, InputRange
from svc_dist.plan.model import Plan
from svc_dist.plan.quantised.decoding import decoded_values
from svc_dist.plan.tensor import PlannedTensor
from svc_dist.plan.vocabulary.row_maps import RowMaps
from svc_dist.run.inputs.joined import JoinedViews
from svc_dist.run.inputs.rows import StoredRows
from svc_dist.storage.reading import ByteRange, MappedRanges


class StoredView(NamedTuple):
    """A view of an input as it is stored: bytes ``part`` of the range ``slot``. ``what`` it is, for a message.

    ``shape``: of the tensor that ``slot`` holds.
    """

    view: Tensor
    slot: InputRange
    part: ByteRange
    what: str
    shape: list[int]


class TensorInputs:
    """Elements ``[first, last)`` of one tensor in each input (base first; None: the base's), from mapped ranges.

    ``changes``: what an adapter adds to each expert's elements, or None. The base has what its own adapter adds.
    """

    def __init__(
        self,
        plan: Plan,
        tensor: PlannedTensor,
        first: int,
        last: int,
        mapped: list[MappedRanges],
        joined: JoinedViews,
    ) -> None:
        self.plan, self.tensor, self.mapped, self.joined = plan, tensor, mapped, joined
        self.first, self.last = first, last
        #: Each input's view as it is stored, for the message about a damaged one.
        self.stored: list[StoredView] = []
        self.views = self._by_token(tensor.maps) if tensor.maps is not None else list(map(self._view, tensor.sources))
        if self.views[0] is not None and (change := self._change(0, tensor.base_factors or None)) is not None:
            self.views[0] = self._applied(self.views[0], change)
        self.changes = [self._change(number, added) for number, added in enumerate(tensor.factors, 1)]

    @property
    def base(self) -> Tensor:
        base = self.views[0]
        assert base is not None
        return base

    def _applied(self, base: Tensor, change: Change) -> Tensor:
        """The base with what its adapter adds, in the compute dtype and in scratch space, not in memory."""
        deltas = TaskDeltas([None], base, changes=[change], precision=self.plan.settings.precision, row=self.tensor.row)
        dtype = next(code for code, name in FLOAT_DTYPES.items() if deltas.dtype == getattr(torch, name))
        values = (chunk.model(0) for chunk in deltas.chunks())
        return self.joined.view(values, base.numel(), dtype)

    def damaged(self, nan_only: bool) -> DamagedInputError | None:
        """The first value of an input that is not finite, or is NaN: file, tensor and element. None where none is."""
        for view, slot, part, what, shape in self.stored:
            for start in range(0, view.numel(), CHUNK):
                values = view[start : start + CHUNK]
                bad = values.isnan() if nan_only else ~values.isfinite()
                if not bool(bad.any()):
                    continue
                index = int(bad.nonzero()[0])
                element = (part.start - slot.start) // view.element_size() + start + index
                return DamagedInputError(
                    f"{self.plan.inputs[slot.input].location}/{slot.file}: {what} {self.tensor.name!r} holds "
                    f"{float(values[index])} at element {element:,} of shape {shape}",
                    "this checkpoint is damaged or its training diverged; use another, or keep this tensor of the base "
                    "by a rule if the damage is an expert's",
                )
        return None

    def _view(self, slot: InputRange | None) -> Tensor | None:
        """The elements of an input. Where it stores them in parts or in codes, they lie together in scratch."""
        if slot is None:
            return None
        views = self._elements(slot, self.first, self.last)
        return views[0] if len(views) == 1 else self.joined.view(views, self.last - self.first, slot.dtype)

    def _by_token(self, maps: RowMaps) -> list[Tensor | None]:
        """The elements of each input, whose rows lie elsewhere in it."""

        def stored(source: int, first: int, last: int) -> list[Tensor]:
            slot = self.tensor.sources[source]
            assert slot is not None
            return self._elements(slot, first, last)

        width = math.prod(self.tensor.shape[1:])
        rows = StoredRows(maps, self.first // width, -(-self.last // width), width, stored)
        return [
            None if slot is None else rows.view(number, self.joined) for number, slot in enumerate(self.tensor.sources)
        ]

    def _elements(self, slot: InputRange, first: int, last: int) -> list[Tensor]:
        """Stored elements of an input, in its parts; where it stores codes, in scratch."""
        if slot.is_coded:
            return [self._decoded(slot, first, last)]
        views: list[Tensor] = []
        for piece, start, end in slot.pieces(first, last):
            shape = [(piece.end - piece.start) // bytes_of(piece.dtype, 1)] if slot.parts else list(self.tensor.shape)
            views.append(self._stored(piece, piece.range(start, end), "tensor", shape))
        return views

    def _decoded(self, slot: InputRange, first: int, last: int) -> Tensor:
        """The elements of an input that stores them in codes, all or some."""
        where = f"{self.plan.inputs[slot.input].location}/{slot.file}: tensor {self.tensor.name!r}"

        def values() -> Iterator[Tensor]:
            for piece, start, end in slot.pieces(first, last):
                if piece.codec is None:
                    yield tensor_view(self.mapped[slot.input].view(piece.range(start, end)), piece.dtype)
                else:
                    yield from decoded_values(piece, start, end, self.mapped[slot.input], where)

        view = self.joined.view(values(), last - first, slot.dtype)
        size = view.element_size()
        part = ByteRange(slot.file, slot.start + first * size, slot.start + last * size)
        self.stored.append(StoredView(view, slot, part, "tensor", list(self.tensor.shape)))
        return view

    def _stored(self, slot: InputRange, part: ByteRange, what: str, shape: list[int]) -> Tensor:
        view = tensor_view(self.mapped[slot.input].view(part), slot.dtype)
        self.stored.append(StoredView(view, slot, part, what, shape))
        return view

    def _change(self, number: int, added: Added | None) -> Change | None:
        """The delta that an adapter adds to these elements, from the mapped rows of its factors."""
        if added is None or self.last == self.first:
            return None
        changes: list[tuple[int, Change]] = []
        position = self.first
        for one in [*added, None]:
            first, last = (self.last, self.last) if one is None else one.within(self.first, self.last)
            if first > last or (first == last and one is not None):
                continue
            if first > position:  # experts of a mixture that the adapter does not change
                columns = math.gcd(self.tensor.row, first - position)
                nothing = torch.empty((first - position) // columns, 0), torch.empty(0, columns)
                changes.append((first - position, LowRank(*nothing)))
            if one is not None:
                changes += self._matrices(number, one, first, last)
            position = last
        return changes[0][1] if len(changes) == 1 else Blocks(tuple(changes), self.tensor.row)

    def _matrices(self, number: int, one: FactorRanges, first: int, last: int) -> Iterator[tuple[int, Change]]:
        """How many entries ``[first, last)`` has of each matrix that a pair of factors adds to, and what it adds."""
        a_range, b_range, *lengths = one.ranges(first, last)
        inner, outer = (one.rows, one.columns) if one.transposed else (one.columns, one.rows)
        lane, lanes = one.lane
        a_shape, b_shape = [one.rank * one.experts, inner], [outer, one.rank * lanes]
        stacked_a = self._stored(one.a, a_range, "lora_A of tensor", a_shape).view(-1, inner)
        stacked_b = self._stored(one.b, b_range, "lora_B of tensor", b_shape).view(-1, one.rank * lanes)
        top = 0 if one.transposed else one.rows_of_b(first, last)[0] * one.columns
        begin, end = one.matrices(first, last)
        for matrix in range(begin, end):
            start = one.first + matrix * one.rows * one.columns
            low, high = max(first, start), min(last, start + one.rows * one.columns)
            a = stacked_a[(matrix - begin) * one.rank :][: one.rank]
            b = stacked_b[:, lane + matrix :: lanes]
            left, right = (a.T, b.T) if one.transposed else (b, a)
            change = LowRank(left, right, one.scale, low - start - top, high - start - top)
            yield high - low, change if not lengths else self._dora(number, one, change, low, high, lengths[0])

    def _dora(
        self, number: int, one: FactorRanges, change: LowRank, first: int, last: int, lengths: ByteRange
    ) -> Rescaled:
        assert one.magnitude is not None
        shape = [one.columns if one.transposed else one.rows]
        magnitude = self._stored(one.magnitude, lengths, "lora_magnitude_vector of tensor", shape)
        below = self.views[number] if number < len(self.views) else None
        weight = (self.base if below is None else below)[first - self.first : last - self.first].view(-1, one.columns)
        added = LowRank(change.left, change.right, change.scale)  # units end between whole rows
        return Rescaled(weight, added, gains_of(weight, added, magnitude, one.transposed))
