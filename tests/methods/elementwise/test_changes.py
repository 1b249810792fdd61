"""NearSwap, Arcee Fusion and RAM, against the definitions written plainly on whole tensors."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from svc_dist.methods.deltas import TaskDeltas
from tests.support.elementwise_references import merged


def drawn(count: int, shape: tuple[int, ...] = (700, 512)) -> tuple[Tensor, list[Tensor]]:
    """A base, and experts that each change some entries."""
    generator = torch.Generator().manual_seed(1)
    base = torch.randn(shape, generator=generator) * 0.02
    changes = [torch.randn(shape, generator=generator) * 0.01 for _ in range(count)]
    masks = [torch.rand(shape, generator=generator) < 0.4 for _ in range(count)]
    return base, [base + change * mask for change, mask in zip(changes, masks, strict=True)]


def test_nearswap_takes_near_entries_and_steps_towards_far_ones() -> None:
    base = torch.tensor([0.0, 0.0, 0.0, 1.0], dtype=torch.float64)
    expert = torch.tensor([0.5, -3.0, 0.0, 1.75], dtype=torch.float64)
    result = base + merged("nearswap", TaskDeltas([expert], base, precision="float64"), t=1.0)
    assert result.tolist() == [0.5, -1.0, 0.0, 1.75]


@pytest.mark.parametrize("shape", [(700, 512), (1200, 1024), (4096,)], ids=str)
def test_arcee_fusion_takes_the_most_important_differences(shape: tuple[int, ...]) -> None:
    base, (expert,) = drawn(1, shape)
    ours, theirs = torch.softmax(base, -1) + 1e-8, torch.softmax(expert, -1) + 1e-8
    importance = (expert - base).abs() * (theirs * torch.log(theirs / ours)).sum(-1, keepdim=True)
    flat = importance.flatten()
    if len(flat) > 1_000_000:
        flat = flat[torch.arange(1_000_000) * len(flat) // 1_000_000]
    first, median, third = (flat.sort().values[int(share * (len(flat) - 1))] for share in (0.25, 0.5, 0.75))
    mask = importance >= median + 1.5 * (third - first)
    assert 0.01 < float(mask.float().mean()) < 0.3
    result = base + merged("arcee_fusion", TaskDeltas([expert], base))
    assert torch.equal(result != base, mask & (expert != base))
    assert torch.allclose(result[mask], expert[mask], rtol=1e-6, atol=1e-9)


def test_ram_averages_what_several_change_and_keeps_what_one_does() -> None:
    base, experts = drawn(3)
    stack = torch.stack([expert - base for expert in experts])
    stack = stack * (stack.abs() > 1e-3)
    count = (stack != 0).sum(0)
    expected = stack.sum(0) / count.clamp(min=1)
    assert torch.allclose(merged("ram", TaskDeltas(experts, base), epsilon=1e-3), expected, atol=1e-8)
    assert {0, 1, 2, 3} == set(count.unique().tolist())


def test_ramplus_amplifies_what_one_expert_alone_changes() -> None:
    base, experts = drawn(3)
    stack = torch.stack([expert - base for expert in experts])
    stack = stack * (stack.abs() > 1e-5)
    count = (stack != 0).sum(0)
    expected = torch.zeros_like(base)
    for delta in stack:
        unique, shared = int(((delta != 0) & (count == 1)).sum()), int(((delta != 0) & (count > 1)).sum())
        factor = 1 + 0.1 * min(max(shared / unique, 0), 1.5)
        expected += torch.where(count == 1, factor * delta, delta / count.clamp(min=1))
    result = merged("ramplus_tl", TaskDeltas(experts, base), r=0.1, alpha=1.5)
    assert torch.allclose(result, expected, atol=1e-8)
