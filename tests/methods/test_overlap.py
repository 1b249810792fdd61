"""How large deltas are and how far they point the same way: exact for small tensors, an estimate for large ones."""

from __future__ import annotations

import pytest
import torch

from svc_dist.methods.deltas import TaskDeltas
from svc_dist.methods.overlap import delta_overlap


def models(numel: int) -> tuple[torch.Tensor, list[torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(numel, generator=generator, dtype=torch.float64)
    shared = torch.randn(numel, generator=generator, dtype=torch.float64)
    own = [torch.randn(numel, generator=generator, dtype=torch.float64) for _ in range(2)]
    return base, [base + shared + 0.5 * part for part in own]


def test_of_a_small_tensor_the_products_are_exact_to_six_digits() -> None:
    base, experts = models(1024)
    overlap = delta_overlap(TaskDeltas(experts, base, precision="float64"))
    assert overlap is not None
    one, two = (expert - base for expert in experts)
    expected = [float(one @ one), float(one @ two), float(two @ two)]
    assert overlap["base"] == pytest.approx(float(base @ base), rel=1e-5)
    assert overlap["gram"] == pytest.approx(expected, rel=1e-5)


def test_of_a_large_tensor_cosine_and_norm_are_close() -> None:
    base, experts = models(1 << 18)
    overlap = delta_overlap(TaskDeltas(experts, base, precision="float64"))
    assert overlap is not None
    first, cross, second = overlap["gram"]
    one, two = (expert - base for expert in experts)
    assert cross / (first * second) ** 0.5 == pytest.approx(float(one @ two / (one.norm() * two.norm())), abs=0.02)
    assert first == pytest.approx(float(one @ one), rel=0.05)


def test_experts_that_are_the_base_have_no_length_and_a_few_elements_no_figures() -> None:
    base, _ = models(100)
    assert delta_overlap(TaskDeltas([base, base], base, precision="float64"))["gram"] == [0.0, 0.0, 0.0]  # type: ignore[index]
    assert delta_overlap(TaskDeltas([base[:15]], base[:15], precision="float64")) is None
