"""WUDI and OptMerge: gradient descent that lowers the interference, and stops where there is none."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from svc_dist.methods.deltas import TaskDeltas
from svc_dist.methods.spectral.wudi import _adam, _fused_adam, optmerge, wudi
from tests.support.spectral_cases import error, fine_tunes, stack, taken


def interference(merged: Tensor, deltas: Tensor) -> float:
    """``sum_i ||(M - Di) Di^T||^2 / ||Di||^2``."""
    products = (merged - deltas) @ deltas.mT
    return float((products.square().sum((1, 2)) / deltas.square().sum((1, 2))).sum())


def test_each_step_lowers_the_interference_of_the_sum() -> None:
    deltas = taken(fine_tunes(24, 32, 3), "float64")
    exact = stack(deltas)
    left = [interference(wudi(deltas, steps=steps, lr=1e-4).delta, exact) for steps in (0, 10, 100)]
    assert left[0] == pytest.approx(interference(exact.sum(0), exact), rel=1e-12)
    assert left[0] > left[1] > left[2] > 0


def test_the_receipt_says_how_far_the_gradient_fell() -> None:
    merged = wudi(taken(fine_tunes(24, 32, 3), "float64"), steps=50, lr=1e-4)
    first, last = merged.summary["gradient_norm"]
    assert merged.summary["steps"] == 50
    assert 0 < last < first


@pytest.mark.parametrize("precision", ["float64", "mixed"])
def test_one_expert_is_the_minimum_already(precision: str) -> None:
    deltas = taken(fine_tunes(24, 32, 1), precision)
    merged = wudi(deltas, steps=300, lr=1e-2)
    assert merged.summary["steps"] == 0
    assert torch.equal(merged.delta, next(iter(deltas)))


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-13), (torch.float32, 2e-6)])
def test_the_descent_of_a_device_is_that_of_the_cpu(dtype: torch.dtype, bound: float) -> None:
    generator = torch.Generator().manual_seed(4)
    start, target = (torch.randn(24, 32, generator=generator).to(dtype) for _ in range(2))
    root = torch.randn(32, 32, generator=generator).to(dtype)
    ends = [start.clone(), start.clone()]
    for descend, end in zip((_adam, _fused_adam), ends, strict=True):
        descend(end, target, root @ root.T, 300, 1e-3)
    assert float((ends[0] - start).norm()) > 1.0
    assert error(ends[1], ends[0]) <= bound


def test_rows_are_descended_independently() -> None:
    models = fine_tunes(300, 16, 2)  # more rows than one block has
    deltas = taken(models, "float64")
    whole = wudi(deltas, steps=5, lr=1e-4).delta
    flipped = wudi(TaskDeltas([model.flip(0) for model in models[1:]], models[0].flip(0), precision="float64"),
                   steps=5, lr=1e-4).delta  # fmt: skip
    assert error(flipped.flip(0), whole) <= 1e-12


def test_optmerge_keeps_a_share_of_each_experts_directions() -> None:
    deltas = taken(fine_tunes(24, 32, 3), "float64")
    merged = optmerge(deltas, steps=0, lr=1e-4)
    assert merged.summary["kept_rank"] == 3 * (24 // 3)
    assert error(merged.delta, stack(deltas).sum(0)) <= 1e-12
    assert optmerge(taken(fine_tunes(2, 9, 4), "float64"), steps=0, lr=1e-4).summary["kept_rank"] == 4
