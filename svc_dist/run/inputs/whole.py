"""Whole tensors of a checkpoint in blocks, decoded where they are stored in codes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from svc_dist.checkpoint.dtype import bytes_of
from svc_dist.checkpoint.tensor_view import tensor_view
from svc_dist.plan.inputs import InputRange
from svc_dist.plan.quantised.decoding import decoded_values
from svc_dist.storage.reading import ByteRange, MappedRanges

_CODED = 1 << 23  # elements of a tensor in codes that are decoded at a time


@dataclass(frozen=True)
class Block:
    """Elements ``[first, last)`` of a tensor, from mapped ranges. ``where``: location and tensor, for messages."""

    slot: InputRange
    first: int
    last: int
    where: str

    @property
    def ranges(self) -> list[ByteRange]:
        """The bytes that hold them."""
        return list(self.slot.reads(self.first, self.last))

    def values(self, mapped: MappedRanges) -> Tensor:
        """Them, flat: a view of the mapping, or what codes stand for. Raises DamagedInputError."""
        if not self.slot.is_coded:
            return tensor_view(mapped.view(self.slot.range(self.first, self.last)), self.slot.dtype)
        return torch.cat(list(decoded_values(self.slot, self.first, self.last, mapped, self.where)))

    def same_bytes(self, mapped: MappedRanges, other: Block, other_mapped: MappedRanges) -> bool:
        """Whether another block of a tensor that is stored alike has the same bytes."""
        pairs = zip(self.ranges, other.ranges, strict=True)
        return all(
            torch.equal(tensor_view(mapped.view(one), "U8"), tensor_view(other_mapped.view(another), "U8"))
            for one, another in pairs
        )


def cuts(slots: Sequence[InputRange], most: int) -> Iterator[tuple[int, int]]:
    """The elements ``[first, last)`` of blocks of tensors of one shape: ``most`` at a time, of codes fewer.

    Codes are cut between their blocks or matrices, so that none is decoded twice, where all of ``slots`` allow it.
    """
    count = (slots[0].end - slots[0].start) // bytes_of(slots[0].dtype, 1)
    coded = [slot.grain for slot in slots if slot.is_coded]
    if coded and count:
        together = math.lcm(*coded)
        grain = together if together <= count else max(coded)
        most = max(min(_CODED, most) // grain, 1) * grain
    for first in range(0, count, most):
        yield first, min(first + most, count)
