"""What calibrations cost, on top of the method whose result they calibrate."""

from __future__ import annotations

from svc_dist.methods.costs import (
    BLOCK,
    Work,
    deltas_work,
    eigen_memory,
    gram_work,
    matrix_memory,
    products_work,
)


def svc_work(m: int, n: int, k: int, precision: str) -> Work:
    """One decomposition, one projection of each expert, the merged matrix taken apart and put together again."""
    small = min(m, n)
    product = 2.0 * m * n * small
    products = products_work(k * product, precision) + Work(float64=2 * product)
    rest = Work(elementwise=(5.0 * k + 6.0) * m * n, eigen=((small, 1.0),))
    return gram_work(m, n) + products + deltas_work(m, n, k) + rest


def magic_work(m: int, n: int, k: int, precision: str) -> Work:
    """One pass over the experts, entry by entry."""
    return deltas_work(m, n, k) + Work(elementwise=(12.0 * k + 8.0) * m * n)


def magic_memory(m: int, n: int, k: int, precision: str) -> float:
    """The merged delta, what the experts explain of it, and an expert or the result; some rows in float64.

    In float64, as an element-wise method passes its result on.
    """
    return 3 * 8.0 * m * n + 6 * 8.0 * BLOCK * n


def svc_memory(m: int, n: int, k: int, precision: str) -> float:
    """The merged delta and the decomposition of its Gram matrix; then both factors, a delta and the result.

    All in float64, but the left factor that experts are projected on, a delta and the result in the compute dtype.
    """
    small = min(m, n)
    decomposed = 8.0 * m * n + eigen_memory(small)
    calibrated = 16.0 * m * n + 8.0 * small * small + 3 * matrix_memory(m, n, precision)
    return max(decomposed, calibrated + 4 * 8.0 * BLOCK * max(m, n))
