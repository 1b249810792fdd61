"""Whether two stored tensors hold the same bytes: in a sample of ranges, or in all."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from svc_dist.checkpoint.header import TensorSpec
from svc_dist.errors import DamagedInputError, printable
from svc_dist.plan.inputs import InputRange
from svc_dist.storage.reading import ByteRange, MappedRanges, Source

#: How many ranges of a tensor a sample compares: spread evenly, the first and the last bytes among them.
SAMPLES = 16
_LENGTH = 4096
_PIECE = 1 << 22


def same_sample(source: Source, one: TensorSpec, other: TensorSpec) -> bool:
    """Whether two tensors of one checkpoint agree in dtype, shape and ``SAMPLES`` ranges of their bytes."""
    if one.nbytes <= SAMPLES * _LENGTH:
        return _same(source, one, other, [(0, one.nbytes)])
    step = (one.nbytes - _LENGTH) // (SAMPLES - 1)
    starts = [*(number * step for number in range(SAMPLES - 1)), one.nbytes - _LENGTH]
    return _same(source, one, other, [(start, start + _LENGTH) for start in starts])


def same_bytes(source: Source, one: TensorSpec, other: TensorSpec) -> bool:
    """Whether two tensors of one checkpoint agree in dtype, shape and every byte."""
    pieces = ((start, min(start + _PIECE, one.nbytes)) for start in range(0, one.nbytes, _PIECE))
    return all(_same(source, one, other, [piece]) for piece in pieces) and _same(source, one, other, [])


def _same(source: Source, one: TensorSpec, other: TensorSpec, pieces: list[tuple[int, int]]) -> bool:
    """Whether two tensors agree in dtype, shape and these bytes of them."""
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    pairs = [(_part(one, *piece), _part(other, *piece)) for piece in pieces]
    with source.map([part for pair in pairs for part in pair]) as mapped:
        return all(_equal(mapped, mine, theirs) for mine, theirs in pairs)


def _part(spec: TensorSpec, start: int, end: int) -> ByteRange:
    return ByteRange(spec.file, spec.start + start, spec.start + end)


def require_equal_copies(
    name: str,
    copies: Iterable[tuple[InputRange, InputRange, int, int]],
    inputs: Sequence[tuple[str, MappedRanges]],
) -> None:
    """Raise DamagedInputError where an input stores elements of the tensor ``name`` again with other values.

    ``copies``: a source, a copy of it, and the stored elements to compare; ``inputs``: each one's location and what is
    mapped of it.
    """
    for source, copy, first, last in copies:
        location, mapped = inputs[copy.input]
        if not _equal(mapped, source.range(first, last), copy.range(first, last)):
            raise DamagedInputError(
                f"{location}: {printable(name)} and a tensor tied to it ({copy.file}, from byte {copy.start:,}) hold "
                "different values, so they are not one tensor",
                "add `untie: true` to the recipe, which gives every model a head of its own (docs/tied.md)",
                code="tied-copies-differ",
            )


def _equal(mapped: MappedRanges, one: ByteRange, other: ByteRange) -> bool:
    mine, theirs = (np.frombuffer(mapped.view(part), np.uint8) for part in (one, other))
    return np.array_equal(mine, theirs)
