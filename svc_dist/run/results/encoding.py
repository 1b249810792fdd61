"""Merged weights as codes: block by block, with the stored codes where the weights are still those of a model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor

from svc_dist.checkpoint.formats.codecs.codec import Codec
from svc_dist.methods.chunking import CHUNK
from svc_dist.plan.quantised.slabs import Slab, slabs

#: Rows of the stored tensors of a matrix, by suffix.
Parts = dict[str, Tensor]
#: What a model stores of rows ``[begin, end)`` of a matrix.
Stored = Callable[[int, int, int], Parts]


def unchanged_blocks(codec: Codec, values: Tensor, stored: Tensor, first: int) -> Tensor:
    """For each block of rows of each matrix, whether it is what a model has.

    ``values``: of a result, flat, from element ``first`` of the weight on; ``stored``: the same of the model, decoded.
    """
    found = []
    for slab, rows in _rows(codec, values, first):
        start = slab.matrix * codec.shape[0] * codec.shape[1] - first
        others = _matrix(codec, stored, slab, start)
        for begin, end in _chunks(codec, len(rows)):
            equal = (rows[begin:end] == others[begin:end].to(rows.dtype)).all(1)
            equal = torch.nn.functional.pad(equal, (0, -len(equal) % codec.grain), value=True)
            found.append(equal.view(-1, codec.grain).all(1))
    return torch.cat(found) if found else torch.ones(0, dtype=torch.bool)


def largest_entries(codec: Codec, values: Tensor) -> list[Tensor]:
    """Of each whole matrix in ``values``, what ``Codec.whole`` needs."""
    result = []
    for _, rows in _rows(codec, values, 0):
        most = None
        for begin, end in _chunks(codec, len(rows)):
            found = codec.largest(rows[begin:end])
            most = found if most is None else torch.maximum(most, found)
        assert most is not None
        result.append(most)
    return result


def encoded(
    codec: Codec,
    values: Tensor,
    first: int,
    device: str,
    stored: Stored | None = None,
    unchanged: Tensor | None = None,
    whole: Callable[[int], Mapping[str, Tensor]] | None = None,
) -> Iterator[Parts]:
    """Rows of the stored tensors of all matrices in order. Parts that a matrix has once come with its first rows.

    ``stored``: what a model has, which the blocks ``unchanged`` keep; ``whole``: a matrix's parts ``of_the_whole``.
    """
    position = 0
    for slab, rows in _rows(codec, values, first):
        parts_of = {} if whole is None else whole(slab.matrix)
        for begin, end in _chunks(codec, len(rows)):
            blocks = -(-(end - begin) // codec.grain)
            kept = None if unchanged is None else unchanged[position : position + blocks]
            position += blocks
            top = slab.begin + begin
            made: Parts = {}
            if kept is None or not bool(kept.all()):
                on_device = {suffix: part.to(device) for suffix, part in parts_of.items()}
                made = {s: part.cpu() for s, part in codec.encode(rows[begin:end].to(device), on_device).items()}
            if kept is not None and stored is not None and bool(kept.any()):
                made = _with_kept(codec, made, stored(slab.matrix, top, slab.begin + end), kept)
            yield {part.suffix: made[part.suffix] for part in codec.parts if part.rows or top == 0}


def _with_kept(codec: Codec, made: Parts, stored: Parts, kept: Tensor) -> Parts:
    """Parts with the stored rows of the blocks that are kept; all of them where nothing was encoded."""
    if not made:
        return stored
    result = dict(made)
    for part in codec.parts:
        if part.rows:
            new, old = (one.contiguous().view(-1).view(torch.uint8) for one in (made[part.suffix], stored[part.suffix]))
            count = -(-len(kept) * codec.grain // part.rows)  # own rows, were all blocks whole
            rows = max(len(made[part.suffix]) if made[part.suffix].dim() else 1, 1)
            mask = kept.repeat_interleave(count // len(kept))[:rows].unsqueeze(1)
            mixed = torch.where(mask, old.view(rows, -1), new.view(rows, -1))
            result[part.suffix] = mixed.view(-1).view(made[part.suffix].dtype).view(made[part.suffix].shape)
    return result


def _rows(codec: Codec, values: Tensor, first: int) -> Iterator[tuple[Slab, Tensor]]:
    """The rows of each matrix in flat ``values``, which begin at element ``first`` of the weight."""
    for slab in slabs(codec, (), first, first + values.numel()):
        yield slab, _matrix(codec, values, slab, slab.matrix * codec.shape[0] * codec.shape[1] - first)


def _matrix(codec: Codec, values: Tensor, slab: Slab, start: int) -> Tensor:
    """The rows of a slab, as the codec has them; ``start``: where the matrix would begin in ``values``."""
    rows, columns = codec.shape
    flat = values[start + slab.first : start + slab.last]
    return flat.view(columns, rows).T if codec.turned else flat.view(-1, columns)


def _chunks(codec: Codec, rows: int) -> Iterator[tuple[int, int]]:
    """Rows, about a chunk of elements at a time, in whole blocks."""
    step = max(CHUNK // (codec.grain * codec.shape[1]), 1) * codec.grain
    return ((begin, min(begin + step, rows)) for begin in range(0, rows, step))
