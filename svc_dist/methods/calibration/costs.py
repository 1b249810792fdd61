"""What calibrations cost, on top of the method whose result they calibrate."""

from __future__ import annotations

from svc_dist.methods.calibration.policy import rounds_coefficients
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
    coefficients = k * product
    low = coefficients if precision == "fast" and rounds_coefficients(small) else 0.0
    products = products_work(2 * product + coefficients - low, precision) + Work(bfloat16=low)
    rest = Work(elementwise=(5.0 * k + 6.0) * m * n, eigen=((small, 1.0),))
    return gram_work(m, n) + products + deltas_work(m, n, k) + rest


def svc_memory(m: int, n: int, k: int, precision: str) -> float:
    """The merged delta and the decomposition of its Gram matrix; then both factors, a delta and the result."""
    small = min(m, n)
    decomposed = matrix_memory(m, n, precision) + eigen_memory(small, 0 if precision == "float64" else 4)
    calibrated = 5 * matrix_memory(m, n, precision) + matrix_memory(small, small, precision)
    return max(decomposed, calibrated + 3 * matrix_memory(BLOCK, n, precision))
