"""Decoding codes of mapped inputs, some rows at a time."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from svc_dist.checkpoint.dtype import torch_dtype
from svc_dist.checkpoint.formats.codecs.codec import Part
from svc_dist.errors import DamagedInputError
from svc_dist.methods.chunking import CHUNK
from svc_dist.plan.inputs import InputRange
from svc_dist.plan.quantised.slabs import Slab
from svc_dist.storage.reading import MappedRanges


def decoded_values(slot: InputRange, first: int, last: int, mapped: MappedRanges, where: str) -> Iterator[Tensor]:
    """Elements ``[first, last)`` of a tensor that is stored in codes, in order, flat, in the dtype of ``slot``.

    ``where``: location and tensor, for messages. Raises DamagedInputError.
    """
    dtype = torch_dtype(slot.dtype)
    for slab in slot.slabs(first, last):
        if slab.codec.turned:
            matrix = torch.cat(list(_decoded(slab, mapped, where))).T
            yield matrix.to(dtype).reshape(-1)[slab.first : slab.last]
            continue
        position = slab.begin * slab.codec.shape[1]
        for rows in _decoded(slab, mapped, where):
            low, high = max(slab.first - position, 0), min(slab.last - position, rows.numel())
            yield rows.view(-1)[low:high].to(dtype)
            position += rows.numel()


def _decoded(slab: Slab, mapped: MappedRanges, where: str) -> Iterator[Tensor]:
    """The rows of a slab in float32, about a chunk at a time."""
    codec = slab.codec
    step = max(CHUNK // (codec.grain * codec.shape[1]), 1) * codec.grain
    for begin in range(slab.begin, slab.end, step):
        stored = stored_rows(slab, mapped, begin, min(begin + step, slab.end))
        damage = codec.damage(stored)
        if damage is not None:
            raise DamagedInputError(f"{where}: {damage}", "download the model again")
        yield codec.decode(stored)


def stored_rows(slab: Slab, mapped: MappedRanges, begin: int, end: int) -> dict[str, Tensor]:
    """What a model stores of rows ``[begin, end)`` of a matrix, which begin a block, by suffix."""
    parts = enumerate(slab.codec.parts)
    return {part.suffix: _view(part, mapped.view(slab.range_of(number, begin, end))) for number, part in parts}


def _view(part: Part, data: memoryview) -> Tensor:
    if part.dtype == "F4":  # two in a byte
        return torch.frombuffer(data, dtype=torch.uint8).view(-1, part.shape[1] // 2)
    return torch.frombuffer(data, dtype=torch_dtype(part.dtype)).view(-1 if part.shape else 1, *part.shape[1:])
