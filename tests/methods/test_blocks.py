"""Changes of consecutive entries are what they are as one dense tensor, in every way that a method may ask for them."""

from __future__ import annotations

import pytest
import torch

from svc_dist.methods.blocks import Blocks
from svc_dist.methods.deltas import TaskDeltas
from svc_dist.methods.low_rank import LowRank


@pytest.fixture
def blocks() -> Blocks:
    generator = torch.Generator().manual_seed(0)
    changes = []
    for rows, rank in ((6, 2), (4, 0), (8, 3)):
        pair = (torch.randn(rows, rank, generator=generator), torch.randn(rank, 5, generator=generator))
        changes.append((rows * 5, LowRank(*pair, scale=2.0)))
    return Blocks(tuple(changes), 5)


def test_every_way_to_ask_gives_the_same_entries(blocks: Blocks) -> None:
    whole = blocks.dense(torch.float64, "cpu")
    assert whole.shape == (90,)
    assert torch.equal(whole[30:50], torch.zeros(20, dtype=torch.float64))
    for start, end in ((0, 90), (3, 12), (28, 33), (30, 50), (49, 90), (89, 90)):
        assert torch.allclose(blocks.chunk(start, end).dense(torch.float64, "cpu"), whole[start:end])
        again = blocks.chunk(start, end).chunk(1, end - start)
        assert torch.allclose(again.dense(torch.float64, "cpu"), whole[start + 1 : end])
    part = blocks.part(slice(4, 15), slice(1, 4)).dense(torch.float64, "cpu")
    assert torch.allclose(part, whole.view(18, 5)[4:15, 1:4].reshape(-1))
    turned = blocks.transposed().dense(torch.float64, "cpu")
    assert torch.allclose(turned.view(5, 18), whole.view(18, 5).T)
    positions = torch.tensor([88, 0, 31, 55, 29, 2])
    picked = blocks.pick(positions)
    assert torch.allclose(picked.dense(torch.float64, "cpu"), whole[positions])
    assert torch.allclose(picked.chunk(1, 4).dense(torch.float64, "cpu"), whole[positions[1:4]])
    assert torch.allclose(picked.pick(torch.tensor([2, 0])).dense(torch.float64, "cpu"), whole[positions[[2, 0]]])


def test_they_are_zero_where_all_are(blocks: Blocks) -> None:
    assert not blocks.is_zero()
    assert blocks.chunk(31, 49).is_zero()


def test_each_matrix_of_a_mixture_keeps_its_factors() -> None:
    changes = tuple((20, LowRank(torch.ones(4, 1) * number, torch.ones(1, 5))) for number in range(3))
    deltas = TaskDeltas([None], torch.zeros(3, 4, 5), changes=[Blocks(changes, 5)], row=5)
    factors = deltas.matrix(2, (3, 4, 5)).low_rank()
    assert factors is not None
    assert torch.equal(factors[0].left, torch.ones(4, 1) * 2)
