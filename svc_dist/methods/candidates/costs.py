"""What the candidates cost: operations by kind and peak memory for one ``(m, n)`` matrix and ``k`` experts."""

from __future__ import annotations

from svc_dist.methods.costs import (
    BLOCK,
    Work,
    deltas_work,
    eigen_memory,
    products_work,
    svd_memory,
)

_LEADING = 64  # vectors that a Krylov space of a few directions takes, times the matrix and its transpose


def ace_work(m: int, n: int, k: int, precision: str) -> Work:
    """Two products for each expert, and Cholesky's factors with the solution; no refinement."""
    products = products_work(k * (m * n * (n + BLOCK) + 2.0 * m * n * n), "mixed" if precision == "fast" else "float64")
    return products + Work(float64=n**3 / 3 + 2.0 * m * n * n, elementwise=5.0 * k * n * n) + deltas_work(m, n, 3 * k)


def ace_memory(m: int, n: int, k: int, precision: str) -> float:
    """Both sums, an expert and its share of them; the sums, the factors and the solution; what is refined with it."""
    sums = 8.0 * (3 * m * n + 2 * n * n)
    found = 8.0 * (4 * m * n + 3 * n * n)
    refined = 8.0 * (3 * m * n) + svd_memory(m, n, precision)
    return max(sums, found, refined)


def resmerge_work(m: int, n: int, k: int, precision: str) -> Work:
    """A few directions of each expert, and passes over its entries."""
    leading = products_work(4.0 * _LEADING * m * n * k, "float64")
    return leading + deltas_work(m, n, k) + Work(elementwise=16.0 * k * m * n)


def resmerge_memory(m: int, n: int, k: int, precision: str) -> float:
    """Two sums, an expert and its decomposition; then a sum, the mean head and one of the heads."""
    small = min(m, n)
    return 24.0 * m * n + max(eigen_memory(small), 8.0 * (small * small + m * n))
