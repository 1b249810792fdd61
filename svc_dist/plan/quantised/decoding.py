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
            yield from _turned(slab, dtype, mapped)
            continue
        columns = slab.codec.shape[1]
        top, bottom = slab.first // columns, -(-slab.last // columns)
        position = top * columns
        for rows in _decoded(slab, top, bottom, mapped, where):
            yield rows.view(-1)[max(slab.first - position, 0) : slab.last - position].to(dtype)
            position += rows.numel()


def _decoded(slab: Slab, first: int, last: int, mapped: MappedRanges, where: str) -> Iterator[Tensor]:
    """Rows ``[first, last)`` of a slab's matrix in float32, at most a chunk at a time."""
    codec = slab.codec
    step = max(CHUNK // codec.shape[1], 1)
    for begin in range(first, last, step):
        stored = stored_rows(slab, mapped, begin, min(begin + step, last))
        damage = codec.damage(stored)
        if damage is not None:
            raise DamagedInputError(f"{where}: {damage}", "download the model again")
        yield codec.decode(stored, begin % codec.grain)


def _turned(slab: Slab, dtype: torch.dtype, mapped: MappedRanges) -> Iterator[Tensor]:
    """The elements of a matrix that count, of the transpose of what the codes stand for: some columns at a time."""
    rows, columns = slab.codec.shape
    stored = stored_rows(slab, mapped, slab.begin, slab.end)
    groups = min(part.shape[1] for part in stored.values())  # of columns, along the second dimension of every part
    size = columns // groups * rows
    step = max(CHUNK // size, 1)
    for begin in range(slab.first // size, -(-slab.last // size), step):
        band = {suffix: part[:, begin : begin + step] for suffix, part in stored.items()}
        values = slab.codec.decode(band).to(dtype).T.reshape(-1)
        yield values[max(slab.first - begin * size, 0) : slab.last - begin * size]


def stored_rows(slab: Slab, mapped: MappedRanges, begin: int, end: int) -> dict[str, Tensor]:
    """What a model stores of rows ``[begin, end)`` of a matrix, by suffix."""
    parts = enumerate(slab.codec.parts)
    return {part.suffix: _view(part, mapped.view(slab.range_of(number, begin, end))) for number, part in parts}


def _view(part: Part, data: memoryview) -> Tensor:
    if part.dtype == "F4":  # two in a byte
        return torch.frombuffer(data, dtype=torch.uint8).view(-1, part.shape[1] // 2)
    return torch.frombuffer(data, dtype=torch_dtype(part.dtype)).view(-1 if part.shape else 1, *part.shape[1:])
