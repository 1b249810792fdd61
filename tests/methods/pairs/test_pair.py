"""Pairs of factors: of svc_dist.methods.pairs.pair, and of svc_dist.methods.pairs.merged through whole merges."""

from __future__ import annotations

import pytest
import torch

from svc_dist.errors import NumericsError
from svc_dist.methods.low_rank import LowRank
from svc_dist.methods.pairs.merged import shares_of
from svc_dist.methods.pairs.pair import best_of_product, best_pair, no_pair, require_finite_pair, stacked_pair
from svc_dist.methods.registry import METHODS


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(40, 24), (24, 40), (30, 30)])
def test_the_best_pair_misses_as_much_as_eckart_and_young_say(shape: tuple[int, int], dtype: torch.dtype) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)
    values = torch.linalg.svdvals(matrix.double()) * 0.7
    pair = best_pair(matrix, -0.7, 5, torch.float64, "a matrix")
    missed = torch.linalg.matrix_norm(matrix.double() * -0.7 - pair.left @ pair.right)
    best = torch.linalg.vector_norm(values[5:])
    assert float(missed / best) == pytest.approx(1, rel=1e-6)
    assert pair.error == pytest.approx(float(missed), rel=1e-6)
    assert pair.norm == pytest.approx(float(torch.linalg.vector_norm(values)), rel=1e-6)


def test_the_error_counts_the_rounding_of_the_factors() -> None:
    matrix = torch.randn(16, 16, generator=torch.Generator().manual_seed(1))
    pair = best_pair(matrix, 1.0, 16, torch.bfloat16, "a matrix")
    missed = torch.linalg.matrix_norm(matrix.double() - pair.left.double() @ pair.right.double())
    assert 1e-3 < pair.error / pair.norm < 1e-2
    assert pair.error == pytest.approx(float(missed), rel=1e-6)


def test_a_matrix_of_lower_rank_is_padded() -> None:
    generator = torch.Generator().manual_seed(1)
    left, right = torch.randn(20, 2, generator=generator), torch.randn(2, 12, generator=generator)
    for pair in (
        best_pair(left @ right, 1.0, 4, torch.float32, "a matrix"),
        best_of_product(LowRank(left, right), 1.0, 4, torch.float32, "a product"),
    ):
        assert pair.left.shape == (20, 4)
        torch.testing.assert_close(pair.left @ pair.right, left @ right, rtol=0, atol=1e-5)
        assert pair.error / pair.norm < 1e-6


def test_a_product_is_cut_at_the_same_error() -> None:
    generator = torch.Generator().manual_seed(2)
    product = LowRank(torch.randn(20, 6, generator=generator), torch.randn(6, 12, generator=generator), 0.5)
    dense = product.dense(torch.float64, "cpu").view(20, 12)
    cut, whole = (
        best_of_product(product, 2.0, 3, torch.float64, "it"),
        best_pair(dense, 2.0, 3, torch.float64, "it"),
    )
    assert cut.error == pytest.approx(whole.error, rel=1e-9)
    torch.testing.assert_close(cut.left @ cut.right, whole.left @ whole.right)


def test_products_are_stacked_without_error() -> None:
    generator = torch.Generator().manual_seed(3)
    products = [
        LowRank(torch.randn(8, rank, generator=generator), torch.randn(rank, 5, generator=generator), 2.0)
        for rank in (2, 0, 1)
    ]
    pair = stacked_pair(products, [0.5, 1.0, -1.0], (2, 1, 3), (8, 5), torch.float64)
    expected = products[0].dense(torch.float64, "cpu") * 0.5 - products[2].dense(torch.float64, "cpu")
    torch.testing.assert_close(pair.left @ pair.right, expected.view(8, 5))
    assert pair.left.shape == (8, 6)
    assert pair.error == 0
    assert pair.norm == pytest.approx(float(expected.norm()))


@pytest.mark.parametrize(
    ("method", "given", "expected"),
    [
        ("task_arithmetic", {"weight": [0.5, 2.0], "normalize": False}, [0.5, 2.0]),
        ("task_arithmetic", {"weight": [0.5, 1.5], "normalize": True}, [0.25, 0.75]),
        ("linear", {"weight": [1.0, 3.0], "normalize": True, "base_weight": 0.0}, [0.25, 0.75]),
        ("linear", {"weight": [1.0, 2.0], "normalize": True, "base_weight": 1.0}, [0.25, 0.5]),
        ("linear", {"weight": [0.25, 0.75], "normalize": False, "base_weight": 0.0}, [0.25, 0.75]),
    ],
)
def test_the_shares_of_a_sum(method: str, given: dict[str, object], expected: list[float]) -> None:
    assert METHODS[method].has_factored_form(given)
    assert shares_of(method, given, 2, 0) == pytest.approx(expected, abs=1e-15)


def test_a_copied_expert_has_the_whole_share() -> None:
    assert shares_of(None, {}, 3, 2) == [0.0, 1.0, 0.0]


def test_factors_must_be_finite() -> None:
    pair = no_pair(2, 2, 1, torch.float32)
    pair.left[0, 0] = float("inf")
    with pytest.raises(NumericsError, match="not finite"):
        require_finite_pair(pair, "a matrix")
