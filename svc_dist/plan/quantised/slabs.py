"""The rows of matrices in codes that some elements of a tensor lie in, and the bytes that hold them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from svc_dist.checkpoint.dtype import bytes_of
from svc_dist.checkpoint.formats.codecs.codec import Codec
from svc_dist.storage.reading import ByteRange


@dataclass(frozen=True)
class Slab:
    """Rows ``[begin, end)`` of one ``matrix`` that an input stores in codes, of which elements ``[first, last)`` count.

    They are counted in the tensor's own layout, from the matrix's first element on. ``stored``: the file of each part
    of the codec, and where the first matrix begins there.
    """

    codec: Codec
    stored: tuple[tuple[str, int], ...]
    matrix: int
    begin: int
    end: int
    first: int
    last: int

    @property
    def ranges(self) -> list[ByteRange]:
        """The bytes of each part, in the codec's order."""
        return [self.range_of(number, self.begin, self.end) for number in range(len(self.stored))]

    def range_of(self, number: int, begin: int, end: int) -> ByteRange:
        """The bytes of a part for rows ``[begin, end)``: of scales, those of all blocks that the rows lie in."""
        part, (file, start) = self.codec.parts[number], self.stored[number]
        whole = bytes_of(part.dtype, math.prod(part.shape))
        row = bytes_of(part.dtype, math.prod(part.shape[1:]))
        top, bottom = part.range(begin, end)
        start += self.matrix * whole
        return ByteRange(file, start + top * row, start + bottom * row)


def codec_grain(codec: Codec, stacked: bool) -> int:
    """How many elements must stay together so that no block is cut: rows of a block, or a matrix."""
    rows, columns = codec.shape
    return rows * columns if codec.turned or (stacked and rows % codec.grain) else codec.grain * columns


def slabs(codec: Codec, stored: tuple[tuple[str, int], ...], first: int, last: int) -> Iterator[Slab]:
    """The slabs that elements ``[first, last)`` of a stack of matrices lie in: some rows of each matrix.

    Where the model has the codec's matrices transposed, all their rows are needed.
    """
    rows, columns = codec.shape
    size = rows * columns
    for matrix in range(first // size, -(-last // size)):
        top, bottom = max(first - matrix * size, 0), min(last - matrix * size, size)
        begin, end = 0, rows
        if not codec.turned:
            begin = top // columns // codec.grain * codec.grain
            end = min(math.ceil(bottom / columns / codec.grain) * codec.grain, rows)
        yield Slab(codec, stored, matrix, begin, end, top, bottom)
