"""SLERP and Model Stock."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from svc_dist.errors import RecipeError
from svc_dist.methods.deltas import TaskDeltas
from svc_dist.methods.registry import METHODS
from tests.support.elementwise_references import merged, parameters, pieces, whole


def pair(shape: tuple[int, ...] = (30, 40), seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(shape, generator=generator, dtype=torch.float64),
        torch.randn(shape, generator=generator, dtype=torch.float64),
    )


def arc(base: Tensor, expert: Tensor, t: float) -> Tensor:
    cosine = float((base * expert).sum() / base.norm() / expert.norm())
    if abs(cosine) > 0.9995:
        return (1 - t) * base + t * expert
    theta = math.acos(cosine)
    return (math.sin((1 - t) * theta) * base + math.sin(t * theta) * expert) / math.sin(theta)


@given(st.floats(0, 1))
@settings(max_examples=20)
def test_slerp_follows_the_arc(t: float) -> None:
    base, expert = pair()
    result = base + merged("slerp", TaskDeltas([expert], base, precision="float64"), t=t)
    assert torch.allclose(result, arc(base, expert, t), rtol=1e-11, atol=1e-13)


def test_slerp_between_unit_vectors_stays_on_the_sphere() -> None:
    base, expert = (tensor / tensor.norm() for tensor in pair())
    result = base + merged("slerp", TaskDeltas([expert], base, precision="float64"), t=0.3)
    assert float(result.norm()) == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("factor", [1.0001, -1.0001])
def test_slerp_of_nearly_colinear_tensors_is_linear(factor: float) -> None:
    base, other = pair()
    expert = factor * base + 1e-4 * other
    result = base + merged("slerp", TaskDeltas([expert], base, precision="float64"), t=0.25)
    assert torch.allclose(result, 0.75 * base + 0.25 * expert, rtol=1e-12, atol=1e-15)


def test_slerp_takes_the_angle_of_the_whole_tensor() -> None:
    base, expert = pair((700, 512))
    expert[300:600] = base[300:600]  # chunks without a difference still turn with the rest
    deltas = TaskDeltas([expert], base, precision="float64")
    expected = arc(base, expert, 0.5) - base
    assert torch.allclose(whole("slerp", deltas), expected, rtol=1e-10, atol=1e-13)
    assert bool(expected[400].any())


def test_slerp_of_equal_tensors_passes_the_base_through() -> None:
    base, _ = pair()
    assert all(part is None for _, _, part, _ in pieces("slerp", TaskDeltas([base.clone()], base)))


def test_slerp_takes_one_expert_and_a_base() -> None:
    with pytest.raises(RecipeError, match="slerp takes exactly one expert, not 2"):
        METHODS["slerp"].require_possible(parameters("slerp", 2), 2)
    with pytest.raises(RecipeError, match="base"):
        merged("slerp", TaskDeltas([torch.ones(3)]))


@pytest.mark.parametrize("count", [2, 3, 5])
def test_model_stock_formula(count: int) -> None:
    generator = torch.Generator().manual_seed(count)
    shared = torch.randn(700, 300, generator=generator, dtype=torch.float64)
    deltas = [shared + torch.randn(shared.shape, generator=generator, dtype=torch.float64) for _ in range(count)]
    cosines = [
        float((deltas[i] * deltas[j]).sum() / deltas[i].norm() / deltas[j].norm())
        for i in range(count) for j in range(i)
    ]  # fmt: skip
    cosine = sum(cosines) / len(cosines)
    t = count * cosine / (1 + (count - 1) * cosine)
    expected = t * sum(deltas) / count
    result = merged("model_stock", TaskDeltas(deltas, precision="float64"))
    assert torch.allclose(result, expected, rtol=1e-11, atol=1e-14)
    mixed = merged("model_stock", TaskDeltas([delta.float() for delta in deltas]))
    assert torch.linalg.norm(mixed - expected) < 1e-6 * torch.linalg.norm(expected)


def test_model_stock_of_one_expert_is_that_expert() -> None:
    (delta, _) = pair()
    assert torch.equal(merged("model_stock", TaskDeltas([delta], precision="float64")), delta)


def test_model_stock_of_opposing_experts_is_the_base() -> None:
    delta, _ = pair()
    assert not merged("model_stock", TaskDeltas([delta, -delta], precision="float64")).any()


def test_model_stock_counts_a_zero_delta_as_a_right_angle() -> None:
    delta, _ = pair()
    result = merged("model_stock", TaskDeltas([delta, delta, torch.zeros_like(delta)], precision="float64"))
    cosine = 1 / 3
    assert torch.allclose(result, 3 * cosine / (1 + 2 * cosine) * 2 * delta / 3, rtol=1e-12)


@given(st.permutations(range(4)))
@settings(max_examples=10)
def test_model_stock_does_not_mind_the_order_of_experts(order: list[int]) -> None:
    tensors = [pair(seed=seed)[0] for seed in range(4)]
    one = merged("model_stock", TaskDeltas(tensors, precision="float64"))
    other = merged("model_stock", TaskDeltas([tensors[index] for index in order], precision="float64"))
    assert torch.allclose(one, other, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("name", ["slerp", "model_stock"])
def test_what_is_not_finite_shows_in_the_result(name: str) -> None:
    base, expert = pair()
    for bad in (math.nan, math.inf):
        expert[3, 4] = bad
        others = [] if name == "slerp" else [base + 1, base - 1]
        assert not torch.isfinite(merged(name, TaskDeltas([expert, *others], base))).all()


def test_model_stock_filter_wise_takes_the_angle_of_each_row() -> None:
    generator = torch.Generator().manual_seed(3)
    base, *experts = (torch.randn(700, 512, generator=generator, dtype=torch.float64) for _ in range(4))
    experts[1][:300] = experts[0][:300] + 0.1 * (experts[1][:300] - experts[0][:300])
    result = merged("model_stock", TaskDeltas(experts, base, precision="float64"), filter_wise=True)
    rows = torch.stack([expert - base for expert in experts])
    units = rows / rows.norm(dim=-1, keepdim=True)
    cosine = sum((units[i] * units[j]).sum(-1) for i, j in ((0, 1), (0, 2), (1, 2))) / 3
    ratio = 3 * cosine / (1 + 2 * cosine)
    assert torch.allclose(result, ratio[:, None] * rows.mean(0), rtol=1e-9)
    assert float(ratio.max() - ratio.min()) > 0.1
