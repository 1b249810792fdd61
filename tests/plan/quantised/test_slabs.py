"""Which rows of which matrices hold some elements, and where their bytes lie."""

from __future__ import annotations

from svc_dist.checkpoint.formats.codecs.fp8_block import Fp8Block
from svc_dist.checkpoint.formats.codecs.mxfp import Mxfp
from svc_dist.plan.quantised.slabs import slabs
from svc_dist.storage.reading import ByteRange

CODEC = Fp8Block((40, 10), "deepgemm", (16, 8))  # blocks of 16, 16 and 8 rows, two a row
STORED = (("a", 1000), ("b", 500))


def test_rows_begin_and_end_blocks() -> None:
    (one,) = slabs(CODEC, STORED, 170, 250)
    assert (one.matrix, one.begin, one.end, one.first, one.last) == (0, 16, 32, 170, 250)
    assert one.ranges == [ByteRange("a", 1160, 1320), ByteRange("b", 508, 516)]
    (edge,) = slabs(CODEC, STORED, 399, 400)
    assert edge.ranges == [ByteRange("a", 1320, 1400), ByteRange("b", 516, 524)]


def test_each_matrix_of_a_stack_has_its_own_blocks() -> None:
    one, other = slabs(CODEC, STORED, 390, 410)
    assert (one.matrix, one.first, one.last, other.matrix, other.first, other.last) == (0, 390, 400, 1, 0, 10)
    assert other.ranges == [ByteRange("a", 1400, 1560), ByteRange("b", 524, 532)]


def test_a_transpose_needs_all_rows() -> None:
    (one,) = slabs(Mxfp((40, 32), "openai", blocked=True), STORED, 0, 40)
    assert (one.begin, one.end, one.first, one.last) == (0, 40, 0, 40)
