"""What spectral methods cost: operations by kind and peak memory for one ``(m, n)`` matrix and ``k`` experts."""

from __future__ import annotations

from svc_dist.methods.costs import (
    BLOCK,
    HEAP_SLACK,
    Work,
    deltas_work,
    eigen_memory,
    gram_work,
    item_size,
    matrix_memory,
    products_work,
    svd_memory,
    svd_work,
)
from svc_dist.methods.spectral.policy import left_gram_is_cheaper, small_gram_is_cheaper, swudi_precision

_SWUDI_SHARE, _STAR_SHARE = 0.65, 0.4  # of the directions: the defaults of the parameters that decide it


def iso_c_work(m: int, n: int, k: int, precision: str) -> Work:
    """One decomposition of the sum, and its factors' product."""
    return svd_work(m, n, precision) + products_work(2.0 * m * n * min(m, n), precision) + deltas_work(m, n, k)


def star_work(m: int, n: int, k: int, precision: str) -> Work:
    """One decomposition of each expert, and the product of what is kept."""
    result = products_work(2.0 * _STAR_SHARE * m * n * min(m, n), precision)
    return (svd_work(m, n, precision, wide=False) + result) * k + deltas_work(m, n, k)


def tsv_m_work(m: int, n: int, k: int, precision: str) -> Work:
    """One decomposition of each expert, two of the collected directions."""
    return svd_work(m, n, precision, 1 / k) * k + _polar(m, n, precision) + deltas_work(m, n, k)


def iso_cts_work(m: int, n: int, k: int, precision: str) -> Work:
    """The same, one of the sum, and its directions taken out of each expert."""
    rest = products_work(4.0 * k * m * n * min(m, n), precision)
    return svd_work(m, n, precision) + rest + tsv_m_work(m, n, k, precision) + deltas_work(m, n, k)


def swudi_work(m: int, n: int, k: int, precision: str) -> Work:
    """C and R, or the small Gram matrix; its decomposition; the result."""
    stacked = k * m
    if small_gram_is_cheaper(m, n, k):
        products = (k + 1.0) * k * m * m * n + 4.0 * stacked * m * stacked + 2.0 * stacked * m * n
        return Work(float64=products, eigen=((stacked, 1.0),)) + deltas_work(m, n, k * (k + 3) // 2)
    summed = swudi_precision(m, n, precision)
    inner = 2.0 * _SWUDI_SHARE * m * n * n
    result = products_work(inner, "mixed" if precision == "fast" else "float64") + products_work(2 * inner, summed)
    return _normal_equations(m, n, k, summed) + result + Work(eigen=((n, 1.0),))


def wudi_work(m: int, n: int, k: int, precision: str) -> Work:
    """C and R, and 300 steps."""
    steps = (products_work(2.0 * m * n * n, precision) + Work(elementwise=10.0 * m * n)) * 300
    return _normal_equations(m, n, k, precision) + steps


def optmerge_work(m: int, n: int, k: int, precision: str) -> Work:
    """Two decompositions of each expert before."""
    return svd_work(m, n, precision, 1 / k, wide=False) * (2 * k) + wudi_work(m, n, k, precision)


def _polar(m: int, n: int, precision: str) -> Work:
    """The polar factors of the directions collected on both sides, and their product."""
    small = min(m, n)
    factors = 2.0 * small * small * (m + n)
    if precision == "float64":
        sides = svd_work(m, small, precision) + svd_work(small, n, precision)
    else:
        sides = gram_work(m, small) + gram_work(small, n) + Work(float64=factors, eigen=((small, 2.0),))
    return sides + products_work(factors + 2.0 * m * n * small, precision)


def _normal_equations(m: int, n: int, k: int, precision: str) -> Work:
    """C, and R by whichever Gram matrix makes it cheaper."""
    normal = float(m * n * (n + BLOCK))
    target = float(m * n * (m + BLOCK)) + 2.0 * m * m * n if left_gram_is_cheaper(m, n) else 2.0 * m * n * n
    return (
        products_work(k * (normal + target), precision) + deltas_work(m, n, 2 * k) + Work(elementwise=float(k * n * n))
    )


def factored_work(m: int, n: int, rank: int, k: int, precision: str) -> Work:
    """QR of the factors of both sides, small problems of size ``rank``, and the product of what comes out."""
    spaces = 4.0 * (m + n) * rank**2 + 2.0 * m * rank**2
    small = Work(float64=(6.0 * k + 20.0) * rank**3, eigen=((rank, 2.0),))
    return Work(float64=spaces) + small + products_work(2.0 * m * n * rank, precision)


def factored_memory(m: int, n: int, rank: int, precision: str) -> float:
    """The factors of both sides in float64 with their QR, or the result's; and small matrices."""
    factors = 8.0 * rank * (m + n)
    return 3 * factors + rank * (m + n) * item_size(precision) + 24 * 8.0 * rank**2 + HEAP_SLACK


def formed_memory(m: int, n: int, rank: int, precision: str) -> float:
    """The factors of one expert in the compute dtype, from which its delta is formed."""
    return float(rank * (m + n) * item_size(precision))


def iso_c_memory(m: int, n: int, k: int, precision: str) -> float:
    """One matrix, its decomposition in float64, both factors in float64 and in the compute dtype."""
    small = min(m, n)
    finished = (8.0 + item_size(precision)) * (small * small + m * n)
    return matrix_memory(m, n, precision) + max(svd_memory(m, n, precision), finished)


def polar_memory(m: int, n: int, k: int, precision: str) -> float:
    """The collected directions of both sides in float64, and the decomposition of a delta or of one side."""
    small, side = min(m, n), max(m, n)
    collected = 8.0 * small * (m + n)
    one = matrix_memory(m, n, precision) + svd_memory(m, n, precision)
    polar = svd_memory(small, side, precision) + 8.0 * small * side
    return collected + max(one, polar)


def iso_cts_memory(m: int, n: int, k: int, precision: str) -> float:
    """As TSV-M, with the sum or a delta in float64, and the common space beside a delta."""
    small = min(m, n)
    return polar_memory(m, n, k, precision) + 8.0 * m * n - matrix_memory(m, n, precision) + 8.0 * m * small


def star_memory(m: int, n: int, k: int, precision: str) -> float:
    """The result, a delta and its decomposition."""
    copy = 0 if precision == "float64" else 4
    decomposition = svd_memory(m, n, precision) if copy == 0 else eigen_memory(min(m, n), copy)
    return 2 * matrix_memory(m, n, precision) + max(decomposition, 2 * matrix_memory(m, n, precision))


def wudi_memory(m: int, n: int, k: int, precision: str) -> float:
    """C, R, a delta and its share of C; then the sum, and the gradient or the state of Adam for some rows."""
    descended = 2 * matrix_memory(m, n, precision) + matrix_memory(n, n, precision)
    descended += max(matrix_memory(m, n, precision), 5 * matrix_memory(min(m, 256), n, precision))
    return max(_summed_memory(m, n, precision), descended)


def optmerge_memory(m: int, n: int, k: int, precision: str) -> float:
    """C, R, the sum and an expert's projector beside a decomposition, all in float64; or the descent."""
    sums = 8.0 * (3 * m * n + n * n)
    narrowed = matrix_memory(m, n, precision) + matrix_memory(n, n, precision)
    return max(sums + max(star_memory(m, n, k, "float64"), narrowed), wudi_memory(m, n, k, precision))


def swudi_memory(m: int, n: int, k: int, precision: str) -> float:
    """C and R, then C's decomposition in float64 beside R, then the sum; or the small Gram matrix."""
    precision = swudi_precision(m, n, precision)
    stacked = k * m
    if small_gram_is_cheaper(m, n, k):
        return 2 * matrix_memory(m, n, precision) + 16.0 * m * n + eigen_memory(stacked) + 8.0 * k * m * m
    decomposed = matrix_memory(m, n, precision) + eigen_memory(n)
    solved = 2 * matrix_memory(m, n, precision) + 8.0 * (n * n + 2 * BLOCK * n) + matrix_memory(n, n, precision)
    return max(_summed_memory(m, n, precision), decomposed, solved)


def swudi_a_memory(m: int, n: int, k: int, precision: str) -> float:
    """As SWUDI; float32 arithmetic may have to give way to float64."""
    return swudi_memory(m, n, k, "float64")


def _summed_memory(m: int, n: int, precision: str) -> float:
    """R and a delta; C and the delta's share of it; and a block that is mirrored."""
    blocks = matrix_memory(BLOCK, BLOCK, precision)
    return 2 * matrix_memory(m, n, precision) + 2 * matrix_memory(n, n, precision) + blocks
