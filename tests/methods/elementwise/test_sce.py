"""SCE against its definition."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from svc_dist.methods.deltas import TaskDeltas
from tests.support import elementwise_references as plain
from tests.support.elementwise_references import merged, whole


def experts(count: int, shape: tuple[int, ...] = (37, 53)) -> list[Tensor]:
    generator = torch.Generator().manual_seed(count)
    return [(1 + index) * torch.randn(shape, generator=generator, dtype=torch.float64) * 1e-3 for index in range(count)]


@pytest.mark.parametrize("count", [1, 2, 3, 5])
@pytest.mark.parametrize("share", [1.0, 0.7, 0.2])
def test_select_calculate_erase(count: int, share: float) -> None:
    tensors = experts(count)
    result = merged("sce", TaskDeltas(tensors, precision="float64"), select_topk=share)
    if count == 1 and share < 1:  # one expert alone has no variance to select by
        assert not result.any()
    else:
        assert torch.allclose(result, plain.sce(tensors, share), rtol=1e-11, atol=1e-16)


def test_selection_is_among_the_entries_that_vary() -> None:
    """Entries that all experts share have no variance, and are no part of the share that is kept."""
    tensors = experts(3, (10, 100))
    for tensor in tensors:
        tensor[:5] = 0.7
    result = merged("sce", TaskDeltas(tensors, precision="float64"), select_topk=0.5)
    assert not result[:5].any()
    assert int(result.count_nonzero()) == 250


def test_a_tensor_of_many_chunks_is_selected_from_as_one() -> None:
    tensors = experts(3, (900, 512))
    for tensor in tensors:
        tensor[:300] *= 4
        tensor[600:700] = 0
    deltas = TaskDeltas(tensors, precision="float64")
    assert torch.allclose(whole("sce", deltas, select_topk=0.3), plain.sce(tensors, 0.3), rtol=1e-10, atol=1e-16)


def test_nothing_selected_is_the_base() -> None:
    assert not merged("sce", TaskDeltas(experts(3)), select_topk=0.0).any()


def test_no_energy_at_all_weighs_experts_alike() -> None:
    assert not merged("sce", TaskDeltas([torch.zeros(5), torch.zeros(5)])).any()


@given(st.permutations(range(4)))
@settings(max_examples=10)
def test_the_order_of_experts_does_not_matter(order: list[int]) -> None:
    tensors = experts(4, (11, 13))
    one = merged("sce", TaskDeltas(tensors, precision="float64"), select_topk=0.5)
    other = merged("sce", TaskDeltas([tensors[index] for index in order], precision="float64"), select_topk=0.5)
    assert torch.allclose(one, other, rtol=1e-11, atol=1e-16)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_shows_in_the_result(share: float, bad: float) -> None:
    tensors = experts(3)
    tensors[1][5, 7] = bad
    assert not torch.isfinite(merged("sce", TaskDeltas(tensors), select_topk=share)).all()
