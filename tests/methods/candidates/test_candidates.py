"""ACE-Merging and ResMerge against plain float64 forms, and what must hold of them whatever the inputs.

Holds ``svc_dist.methods.candidates.ace``, ``svc_dist.methods.candidates.resmerge`` and
``svc_dist.methods.candidates.declarations``.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from svc_dist.errors import NumericsError, RecipeError
from svc_dist.linalg.precision import Precision
from svc_dist.methods.deltas import TaskDeltas
from svc_dist.methods.low_rank import LowRank
from svc_dist.methods.registry import METHODS
from tests.support import candidate_references as plain
from tests.support.elementwise_references import chunks_of, parameters
from tests.support.spectral_cases import CANDIDATES, calibrated, error, fine_tunes, merge_matrix, run, stack, taken

SHAPES = [(40, 64), (96, 32), (30, 200)]
TOLERANCE = {"float64": 1e-10, "mixed": 1e-6, "fast": 5e-5}


def scaled(models: list[Tensor], factors: list[float]) -> list[Tensor]:
    """The same experts, each so many times as far from the base."""
    return [
        models[0],
        *(models[0] + factor * (one - models[0]) for factor, one in zip(factors, models[1:], strict=True)),
    ]


@pytest.mark.parametrize("precision", list(Precision))
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("factors", [[1.0, 1.0, 1.0], [1.0, 0.2, 3e-4]], ids=["alike", "heterogeneous"])
@pytest.mark.parametrize("given", [{}, {"eps": 1.0, "refined_share": 0.1}], ids=str)
def test_ace_agrees_with_the_plain_form(
    given: dict[str, float], factors: list[float], shape: tuple[int, int], precision: Precision
) -> None:
    models = scaled(fine_tunes(*shape, 3), factors)
    exact = stack(taken(models, "float64"))
    merged = run("ace", taken(models, precision), **given)
    assert plain.heterogeneous(exact) == (factors[2] < 1) == merged.summary["heterogeneous"]
    assert error(merged.delta, plain.ace(exact, **given)) <= TOLERANCE[precision]
    assert merged.delta.dtype == (torch.float64 if precision == "float64" else torch.float32)
    assert 0 < merged.summary["residual"] <= 1e-12


def test_ace_of_covariances_that_rounding_makes_singular_leaves_their_empty_directions_out() -> None:
    generator = torch.Generator().manual_seed(0)
    deltas = [torch.randn(40, 3, generator=generator).double() @ torch.randn(3, 60, generator=generator).double()] * 2
    merged = run("ace", TaskDeltas(deltas, precision="float64"), eps=1e-30)
    assert torch.isfinite(merged.delta).all()
    assert torch.linalg.norm(merged.delta) <= 2 * torch.linalg.norm(deltas[0])


@pytest.mark.parametrize("precision", list(Precision))
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("given", [{}, {"rank": 3, "head_ratio": 0.5}, {"beta_min": 0.2, "beta_max": 0.4}], ids=str)
def test_resmerge_agrees_with_the_plain_form(
    given: dict[str, Any], shape: tuple[int, int], precision: Precision
) -> None:
    models = fine_tunes(*shape, 4)
    merged = run("resmerge", taken(models, precision), **given)
    assert error(merged.delta, plain.resmerge(stack(taken(models, "float64")), **given)) <= TOLERANCE[precision]
    assert "beta" in merged.summary


def test_resmerge_averages_residuals_that_have_nothing_in_common() -> None:
    deltas = torch.zeros(3, 30, 40, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    for index in range(3):  # rows of their own: every product of two experts is zero
        deltas[index, 10 * index : 10 * index + 10] = torch.randn(10, 40, generator=generator).double()
    merged = run("resmerge", TaskDeltas(list(deltas), precision="float64"))
    assert "beta" not in merged.summary
    assert merged.summary["coherence"] == pytest.approx(3**-0.5)
    assert merged.summary["agreement"] == 0
    residuals = [delta - plain_head(delta) for delta in deltas]
    assert error(merged.delta, torch.stack(residuals).mean(0)) <= 1e-10


def plain_head(delta: Tensor) -> Tensor:
    left, values, right = torch.linalg.svd(delta, full_matrices=False)
    return values[0] * torch.outer(left[:, 0], right[0])


def test_resmerge_of_one_expert_is_its_residual_and_a_share_of_its_head() -> None:
    deltas = taken(fine_tunes(30, 40, 1), "float64")
    head = plain_head(deltas[0])
    rest = deltas[0] - head
    assert error(run("resmerge", deltas).delta, rest + head / head.norm() * 0.2 * rest.norm()) <= 1e-10


def test_resmerge_of_factors_is_that_of_their_products() -> None:
    generator = torch.Generator().manual_seed(0)
    factors = [
        LowRank(torch.randn(80, rank, generator=generator), torch.randn(rank, 96, generator=generator))
        for rank in (4, 6, 5)
    ]
    adapters = TaskDeltas([None] * 3, shape=(80, 96), changes=factors, precision="float64")
    dense = TaskDeltas([one.dense(torch.float64, "cpu").view(80, 96) for one in factors], precision="float64")
    given = METHODS["resmerge"], parameters("resmerge", 3)
    found, expected = merge_matrix(adapters, *given), merge_matrix(dense, *given)
    assert isinstance(found, LowRank)
    assert isinstance(expected, Tensor)
    assert error(found.dense(torch.float64, "cpu").view(80, 96), expected) <= 1e-9


def test_exponents_in_the_wrong_order_are_refused() -> None:
    with pytest.raises(RecipeError, match=r"beta_min 1 is above beta_max 0\.5"):
        METHODS["resmerge"].complete(3, {"beta_min": 1.0, "beta_max": 0.5})


@pytest.mark.parametrize("name", CANDIDATES)
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_an_entry_that_is_not_finite_stops_the_merge(name: str, value: float) -> None:
    models = fine_tunes(48, 64, 3)
    models[2] = models[2].clone()
    models[2][5, 7] = value
    with pytest.raises(NumericsError, match="expert 1"):
        run(name, taken(models, "mixed"))


@pytest.mark.parametrize("name", CANDIDATES)
def test_experts_that_cancel_or_change_nothing_are_merged_to_something_finite(name: str) -> None:
    delta = stack(taken(fine_tunes(24, 32, 1), "float64"))[0]
    for precision in Precision:
        for experts in ([delta, -delta], [delta, torch.zeros_like(delta)], [torch.zeros_like(delta), delta, delta]):
            deltas = TaskDeltas(experts, precision=precision)
            merged = run(name, deltas)
            assert torch.isfinite(merged.delta).all()
            assert torch.linalg.norm(merged.delta) <= 2 * torch.linalg.norm(delta)
            assert torch.isfinite(calibrated(merged, deltas)).all()


def test_zero_experts_pass_the_base_through() -> None:
    model = torch.randn(16, 16, dtype=torch.bfloat16)
    deltas = TaskDeltas([model, model.clone()], model)
    for name in CANDIDATES:
        assert [piece.merged for piece in chunks_of(deltas, name, {}, batch=(1, 16, 16))] == [None]


@pytest.mark.parametrize("name", CANDIDATES)
def test_candidates_are_marked_and_cost_more_where_matrices_are_larger(name: str) -> None:
    method = METHODS[name]
    assert method.experimental
    for precision in Precision:
        for smaller, larger in [((512, 512), (1024, 512)), ((512, 512), (512, 1024))]:
            assert method.work(*larger, 4, precision).flops > method.work(*smaller, 4, precision).flops
            assert method.memory(*larger, 4, precision) > method.memory(*smaller, 4, precision)
    assert method.work(512, 512, 8, "mixed").flops > method.work(512, 512, 4, "mixed").flops
