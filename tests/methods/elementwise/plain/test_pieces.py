"""Plain chunks go a shorter way to the same deltas."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from svc_dist.methods.chunking import CHUNK
from svc_dist.methods.deltas import TaskDeltas
from svc_dist.methods.elementwise.plain.pieces import Piece, cutter, pieces
from svc_dist.methods.low_rank import LowRank


def piece(deltas: TaskDeltas, start: int, end: int) -> TaskDeltas:
    return cutter(deltas)(start, end)


def models(count: int = 3, size: int = CHUNK + 1000, dtype: torch.dtype = torch.bfloat16) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(size, generator=generator).to(dtype) for _ in range(count)]


@pytest.mark.parametrize("precision", ["mixed", "float64"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_a_piece_has_the_deltas_of_the_chunk(precision: str, dtype: torch.dtype) -> None:
    base, *experts = models(dtype=dtype)
    deltas = TaskDeltas([*experts, None], base, precision=precision, tensor="w", offset=7, row=10)
    short, plain = piece(deltas, 5, 900), deltas.chunk(5, 900)
    assert isinstance(short, Piece)
    assert (short.offset, short.row, short.numel, short.tensor) == (plain.offset, plain.row, plain.numel, plain.tensor)
    for one, other in zip(short, plain, strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)
    assert torch.equal(short.base, plain.base)
    assert torch.equal(short.model(1), plain.model(1))


def test_without_a_base_the_experts_are_the_deltas() -> None:
    deltas = TaskDeltas(models())
    assert torch.equal(piece(deltas, 2, 80)[1], deltas.chunk(2, 80)[1])
    assert not bool(piece(deltas, 2, 80).base.any())


def test_pieces_are_the_chunks_in_order() -> None:
    base, *experts = models()
    deltas = TaskDeltas(experts, base, row=100)
    spans = [(one.offset, one.numel) for one in pieces(deltas)]
    assert spans == [(one.offset, one.numel) for one in deltas.chunks()]
    assert len(spans) == 2


def test_a_piece_knows_its_own_base_not_that_of_the_tensor() -> None:
    base, *experts = models()
    deltas = TaskDeltas(experts, base)
    assert deltas.base.numel() == base.numel()  # which keeps it
    assert piece(deltas, 3, 9).base.numel() == 6


@pytest.mark.parametrize(("place", "zero"), [(None, True), (0, False), (255, False), (256, False), (799, False)])
def test_whether_all_deltas_are_zero(place: int | None, zero: bool) -> None:
    base = models(1)[0]
    experts = [base.clone(), base.clone()]
    if place is not None:
        experts[1][place] += 1
    assert piece(TaskDeltas(experts, base), 0, 800).all_zero() is zero


def test_models_in_other_dtypes_are_compared_by_value() -> None:
    base = models(1)[0]
    assert piece(TaskDeltas([base.float(), base], base), 0, 800).all_zero()
    assert not piece(TaskDeltas([base.float() + 1e-3, base], base), 0, 800).all_zero()


def test_a_nan_that_all_models_have_is_no_difference() -> None:
    base = models(1)[0]
    base[3] = torch.nan
    deltas = TaskDeltas([base.clone(), base.clone()], base)
    assert piece(deltas, 0, 800).all_zero()
    deltas.experts[0][500] += 1  # type: ignore[index]
    assert not piece(deltas, 0, 800).all_zero()


def test_a_zero_of_the_other_sign_is_no_difference() -> None:
    base = torch.zeros(400)
    assert piece(TaskDeltas([-base], base), 0, 400).all_zero()


def test_what_is_not_plain_takes_the_general_way() -> None:
    base, expert = models(2, 600)
    matrix = TaskDeltas([expert.view(30, 20).T], base.view(30, 20).T)
    change = LowRank(torch.randn(30, 2), torch.randn(2, 20))
    assert not isinstance(piece(matrix, 0, 60), Piece)
    assert not isinstance(piece(TaskDeltas([expert], base, changes=[change]), 0, 60), Piece)
    strided = TaskDeltas([expert[::2]], base[::2])
    assert not isinstance(piece(strided, 0, 60), Piece)
    assert len(list(pieces(matrix))) == 1
