"""Where a spectral method changes its way of computing: at the sizes where the other one is cheaper."""

from __future__ import annotations

import pytest

from svc_dist.methods.spectral.policy import (
    blocks_save_memory,
    factored_rank,
    left_gram_is_cheaper,
    small_gram_is_cheaper,
    swudi_precision,
)


def test_the_smaller_of_two_gram_matrices_is_taken() -> None:
    assert small_gram_is_cheaper(100, 401, 4)
    assert not small_gram_is_cheaper(100, 400, 4)


def test_the_left_gram_matrix_pays_where_its_products_are_fewer() -> None:
    for m, n in [(100, 149), (100, 151), (100, 1000), (1000, 100)]:
        left, right = m * m * n + 2 * m * m * n, 2 * m * n * n  # half of a Gram matrix is enough; the other is there
        assert left_gram_is_cheaper(m, n) == (left < right)


def test_blocks_save_memory_of_tall_matrices_only() -> None:
    assert blocks_save_memory(4400, 1100)
    assert not blocks_save_memory(1024, 2816)


def test_swudi_sums_in_float64_but_in_fast_only_where_it_is_cheap() -> None:
    assert swudi_precision(4096, 4096, "mixed") == "float64"
    assert swudi_precision(4096, 1024, "fast") == "float64"
    assert swudi_precision(1000, 4000, "fast") == "float64"
    assert swudi_precision(4096, 1025, "fast") == "fast"
    assert swudi_precision(1001, 4000, "fast") == "fast"


@pytest.mark.parametrize(
    ("ranks", "total"), [([8, 8], 16), ([25, 25], 50), ([25, 26], None), ([0, 0], None), ([], None)]
)
def test_factors_pay_up_to_half_of_the_shorter_side(ranks: list[int], total: int | None) -> None:
    assert factored_rank(100, 300, ranks) == factored_rank(300, 100, ranks) == total
