"""Deltas of a matrix seen as its transpose: no bytes move, and every sum is that of the transpose."""

from __future__ import annotations

import pytest
import torch

from svc_dist.methods.deltas import TaskDeltas
from svc_dist.methods.low_rank import LowRank


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_transposed_deltas_are_the_transposes(dtype: torch.dtype) -> None:
    shape = (600, 500)  # more than a chunk
    base, *experts = (torch.randn(shape).to(dtype) for _ in range(3))
    change = LowRank(torch.randn(shape[0], 2), torch.randn(2, shape[1]), 0.5)
    plain = TaskDeltas([*experts, None], base, changes=[None, change, change], precision="float64")
    turned = plain.transposed()
    assert turned.shape == (500, 600)
    assert not turned.all_zero()
    assert TaskDeltas([base, None], base).transposed().all_zero()
    for index in range(3):
        assert torch.allclose(turned[index], plain[index].T, atol=1e-12)
        assert torch.allclose(turned.model(index), plain.model(index).T, atol=1e-12)
    assert torch.allclose(turned.total(), plain.total().T, atol=1e-12)
    part = turned.part(slice(3, 9), slice(1, 5))
    assert torch.allclose(part[1], plain[1].T[3:9, 1:5], atol=1e-12)
    back = turned.transposed()
    assert all(torch.equal(back[index], plain[index]) for index in (0, 2))


def test_one_matrix_of_a_batch_is_transposed() -> None:
    experts = [torch.randn(3, 4, 5) for _ in range(2)]
    change = LowRank(torch.randn(12, 2), torch.randn(2, 5))
    deltas = TaskDeltas(experts, torch.zeros(3, 4, 5), changes=[None, change])
    for number in range(3):
        matrix = deltas.matrix(number, (3, 4, 5))
        assert torch.allclose(matrix.transposed()[1], matrix[1].T)
