"""Some rows of one matrix of a stack, as a tensor of its own: where it is stored as it is, or in codes."""

from __future__ import annotations

import math

from msgspec import structs

from svc_dist.checkpoint.dtype import bytes_of
from svc_dist.checkpoint.formats.codecs.codec import Codec
from svc_dist.checkpoint.formats.codecs.packed_integers import PackedIntegers
from svc_dist.checkpoint.formats.codecs.texts import codec_of, codec_text, shared
from svc_dist.checkpoint.header import TensorSpec


def rows_of(stack: TensorSpec, name: str, matrix: int, top: int, rows: int) -> TensorSpec | None:
    """Rows ``[top, top + rows)`` of one matrix of a tensor ``(count, height, width)``, under this name.

    None where these rows are no codes and scales of their own: they cut a block, or are columns of what is stored.
    """
    _, height, width = stack.shape
    if stack.codec is None:
        first = (matrix * height + top) * width
        start, end = (stack.start + bytes_of(stack.dtype, first + count) for count in (0, rows * width))
        return structs.replace(stack, name=name, shape=(rows, width), start=start, end=end)
    codec = codec_of(stack.codec)
    cuts = any(border % codec.grain and border != height for border in (top, top + rows))
    if codec.turned or cuts or isinstance(codec, PackedIntegers):
        return None
    own = shared(codec.of_rows(rows))
    parts = tuple(
        _rows_of_part(codec, number, stored, matrix, top, top + rows, own) for number, stored in enumerate(stack.parts)
    )
    end = bytes_of(stack.dtype, rows * width)
    return TensorSpec(name, stack.dtype, (rows, width), parts[0].file, 0, end, parts, codec_text(own))


def _rows_of_part(
    codec: Codec, number: int, stored: TensorSpec, matrix: int, first: int, last: int, own: Codec
) -> TensorSpec:
    part = codec.parts[number]
    begin, end = part.range(first, last)
    row = bytes_of(part.dtype, math.prod(part.shape[1:]))
    start = stored.start + matrix * bytes_of(part.dtype, math.prod(part.shape))
    return structs.replace(stored, shape=own.parts[number].shape, start=start + begin * row, end=start + end * row)
