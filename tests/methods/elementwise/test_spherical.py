"""NuSLERP, Multi-SLERP and the Karcher mean, against the definitions written plainly on whole vectors."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from svc_dist.errors import NumericsError, RecipeError
from svc_dist.methods.chunking import CHUNK
from svc_dist.methods.deltas import TaskDeltas
from svc_dist.methods.registry import METHODS
from tests.support.elementwise_references import merged, parameters


def drawn(count: int, shape: tuple[int, ...] = (30, 40), seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(count)]


def made(name: str, base: Tensor, experts: list[Tensor], **given: object) -> Tensor:
    return base + merged(name, TaskDeltas(experts, base, precision="float64", tensor="w"), **given)


def arc(one: Tensor, other: Tensor, t: float) -> Tensor:
    """At share ``t`` between two vectors."""
    angle = math.acos(float(one.flatten() @ other.flatten() / one.norm() / other.norm()))
    return (math.sin((1 - t) * angle) * one + math.sin(t * angle) * other) / math.sin(angle)


def test_nuslerp_turns_between_the_deltas_around_a_base() -> None:
    base, one, other = drawn(3)
    expected = base + arc(one - base, other - base, 0.25)
    assert torch.allclose(made("nuslerp", base, [one, other], weight=[0.3, 0.1], base_weight=None), expected)


def test_nuslerp_turns_between_the_models_where_there_is_no_base() -> None:
    first, second = drawn(2)
    assert torch.allclose(made("nuslerp", first, [second], weight=[1.0], base_weight=3.0), arc(first, second, 0.25))


@pytest.mark.parametrize("with_base", [True, False])
def test_nuslerp_of_rows_and_of_columns(with_base: bool) -> None:
    base, one, other = drawn(3, (CHUNK // 50, 120))
    origin = base if with_base else torch.zeros_like(base)
    first, second = (one, other) if with_base else (base, one)
    experts, weight, base_weight = ([one, other], [1.0, 3.0], None) if with_base else ([one], [3.0], 1.0)
    for columns in (False, True):
        pairs = zip(
            (first - origin).T if columns else first - origin,
            (second - origin).T if columns else second - origin,
            strict=True,
        )
        turned = torch.stack([arc(a, b, 0.75) for a, b in pairs])
        expected = origin + (turned.T if columns else turned)
        given = {"weight": weight, "base_weight": base_weight, "nuslerp_flatten": False, "nuslerp_row_wise": columns}
        assert torch.allclose(made("nuslerp", base, experts, **given), expected, rtol=1e-9)
        flat = TaskDeltas([one.flatten() for one in experts], base.flatten(), precision="float64", row=120)
        assert torch.allclose(base.flatten() + merged("nuslerp", flat, **given), expected.flatten(), rtol=1e-9)


def test_parallel_vectors_are_interpolated_linearly() -> None:
    base, one = drawn(2)
    result = made("nuslerp", base, [base + one, base + 3 * one], weight=[1.0, 1.0], base_weight=None)
    assert torch.allclose(result, base + 2 * one)
    result = made("multislerp", base, [base + one, base - one], weight=[1.0, 1.0], base_weight=None)
    assert torch.allclose(result, base, atol=1e-12)


def test_nuslerp_takes_two_models() -> None:
    method = METHODS["nuslerp"]
    with pytest.raises(RecipeError, match="nuslerp takes at most 2 experts, not 3"):
        method.complete(3, {"weight": 1.0})
    with pytest.raises(RecipeError, match="takes two models besides a base_model, not 3"):
        method.complete(2, {"weight": 1.0}, base={})
    assert method.complete(1, {"weight": 1.0}, base={"weight": 2})["base_weight"] == 2.0


def test_multislerp_is_the_weighted_mean_direction_at_the_mean_length() -> None:
    base, *experts = drawn(4)
    share = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    deltas = [expert - base for expert in experts]
    mean = sum(s * delta / delta.norm() for s, delta in zip(share, deltas, strict=True))
    length = sum(s * delta.norm() for s, delta in zip(share, deltas, strict=True))
    expected = base + mean / mean.norm() * length
    result = made("multislerp", base, experts, weight=[5.0, 3.0, 2.0], base_weight=None)
    assert torch.allclose(result, expected)


def test_multislerp_of_models_that_cancel_out_is_refused() -> None:
    base, one, other = drawn(3)
    third = -(one / one.norm() + other / other.norm())
    third = third / third.norm()
    weight = [1.0, 1.0, float((one / one.norm() + other / other.norm()).norm())]
    experts = [base + one, base + other, base + third]
    with pytest.raises(NumericsError, match="cancel out in w"):
        made("multislerp", base, experts, weight=weight, base_weight=None)


def test_the_karcher_mean_balances_the_arcs() -> None:
    models = drawn(4)
    result = made("karcher", models[0], models[1:], base_weight=1.0, max_iter=200, tol=1e-12)
    length = sum(model.norm() for model in models) / 4
    assert float(result.norm()) == pytest.approx(float(length))
    mean = result / result.norm()
    pull = torch.zeros_like(mean)
    for model in models:
        unit = model / model.norm()
        cosine = float((unit * mean).sum())
        pull += math.acos(cosine) / math.sqrt(1 - cosine * cosine) * (unit - cosine * mean)
    assert float(pull.norm()) < 1e-10


def test_a_zero_model_has_no_direction_but_a_length() -> None:
    base, one = torch.zeros(30, 40, dtype=torch.float64), drawn(1)[0]
    assert torch.allclose(made("karcher", base, [one], base_weight=1.0), one / 2)


@pytest.mark.parametrize("name", ["nuslerp", "multislerp", "karcher"])
def test_products_of_many_chunks_add_up(name: str) -> None:
    base, one, other = (tensor.float() for tensor in drawn(3, (900, 700)))
    given = parameters(name, 2, base_weight=1.0 if name == "karcher" else None)
    result = base + merged(name, TaskDeltas([one, other], base), **given)
    exact = made(name, base.double(), [one.double(), other.double()], **given)
    assert float((result - exact).norm() / exact.norm()) < 1e-6
