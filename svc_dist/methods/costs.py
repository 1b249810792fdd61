"""What the methods cost: operations by kind and peak memory for one ``(m, n)`` matrix and ``k`` experts.

Operations order work, show progress and feed the simulation of a run; they promise nothing. Memory is a promise, which
plans reserve: the most anonymous bytes that a matrix takes at once, the views of its inputs not counted. This module
does not import torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Work:
    """Operations by kind, which run at very different rates.

    ``float64``, ``float32``, ``bfloat16``: of matrix products in that dtype; ``elementwise``: in units of a plain
    addition of cached data; ``eigen``: symmetric eigendecompositions in float64, as pairs of their size n and how many.
    """

    float64: float = 0.0
    float32: float = 0.0
    bfloat16: float = 0.0
    elementwise: float = 0.0
    eigen: tuple[tuple[int, float], ...] = ()

    @property
    def flops(self) -> float:
        """All operations together, with ``9 n^3`` for a decomposition and its vectors."""
        decompositions = sum(9.0 * size**3 * count for size, count in self.eigen)
        return self.float64 + self.float32 + self.bfloat16 + self.elementwise + decompositions

    def __add__(self, other: Work) -> Work:
        counts = dict(self.eigen)
        for size, count in other.eigen:
            counts[size] = counts.get(size, 0.0) + count
        return Work(
            self.float64 + other.float64,
            self.float32 + other.float32,
            self.bfloat16 + other.bfloat16,
            self.elementwise + other.elementwise,
            tuple(counts.items()),
        )

    def __mul__(self, factor: float) -> Work:
        return Work(
            self.float64 * factor,
            self.float32 * factor,
            self.bfloat16 * factor,
            self.elementwise * factor,
            tuple((size, count * factor) for size, count in self.eigen),
        )


Operations = Callable[[int, int, int, str], Work]
Memory = Callable[[int, int, int, str], float]

KEPT = 32 << 20  #: what the C library holds back of small freed blocks, as a worker lets it
ON_HOST = 256 << 20  #: host bytes of a unit that computes on a device: staged inputs, and what is written
_PANEL = 192  # reflectors of a tridiagonal form that are applied at once
_BLOCK = 512  # rows of a Gram matrix, or of projected deltas, that are handled at once


def item_size(precision: str) -> int:
    """Bytes of an entry in the compute dtype."""
    return 8 if precision == "float64" else 4


def matrix_memory(m: int, n: int, precision: str) -> float:
    """Bytes of one ``(m, n)`` matrix in the compute dtype."""
    return float(m * n * item_size(precision))


def kept(memory: Memory) -> Memory:
    """``memory``, and what stays behind of small blocks."""
    return lambda m, n, k, precision: memory(m, n, k, precision) + KEPT


# --- Operations ----------------------------------------------------------------------------------------------------

_FORMED = 3.0  # element-wise operations that an entry of a task delta takes
_SWUDI_SHARE, _STAR_SHARE = 0.65, 0.4  # of the directions: the defaults of what decides it


def linear_work(m: int, n: int, k: int, precision: str) -> Work:
    """A weighted sum."""
    return Work(elementwise=float((3 * k + 2) * m * n))


def per_entry(operations: float) -> Operations:
    """A cost of ``operations`` per entry and expert."""
    return lambda m, n, k, precision: Work(elementwise=operations * k * m * n)


def svc_work(m: int, n: int, k: int, precision: str) -> Work:
    """One decomposition, one projection of each expert, the merged matrix taken apart and put together again."""
    small = min(m, n)
    product = 2.0 * m * n * small
    coefficients = k * product
    low = coefficients if precision == "fast" and small >= 2048 else 0.0
    products = _products(2 * product + coefficients - low, precision) + Work(bfloat16=low)
    entries = (_FORMED * k + 5.0 * k + 6.0) * m * n
    return _gram(m, n) + products + Work(elementwise=entries, eigen=((small, 1.0),))


def product_work(m: int, n: int, precision: str) -> Work:
    """One product of a matrix with its directions: what another result of the same decomposition costs."""
    return _products(2.0 * m * n * min(m, n), precision)


def iso_c_work(m: int, n: int, k: int, precision: str) -> Work:
    """One decomposition of the sum, and its factors' product."""
    return _svd(m, n, precision) + _products(2.0 * m * n * min(m, n), precision) + _formed(m, n, k)


def star_work(m: int, n: int, k: int, precision: str) -> Work:
    """One decomposition of each expert, and the product of what is kept."""
    result = _products(2.0 * _STAR_SHARE * m * n * min(m, n), precision)
    return (_svd(m, n, precision, wide=False) + result) * k + _formed(m, n, k)


def tsv_m_work(m: int, n: int, k: int, precision: str) -> Work:
    """One decomposition of each expert, two of the collected directions."""
    return _svd(m, n, precision, 1 / k) * k + _polar(m, n, precision) + _formed(m, n, k)


def iso_cts_work(m: int, n: int, k: int, precision: str) -> Work:
    """The same, one of the sum, and its directions taken out of each expert."""
    rest = _products(4.0 * k * m * n * min(m, n), precision)
    return _svd(m, n, precision) + rest + tsv_m_work(m, n, k, precision) + _formed(m, n, k)


def swudi_work(m: int, n: int, k: int, precision: str) -> Work:
    """C and R, or the small Gram matrix; its decomposition; the result."""
    stacked = k * m
    if stacked < n:
        products = (k + 1.0) * k * m * m * n + 4.0 * stacked * m * stacked + 2.0 * stacked * m * n
        return Work(float64=products, eigen=((stacked, 1.0),)) + _formed(m, n, k * (k + 3) // 2)
    own = swudi_precision(m, n, precision)
    inner = 2.0 * _SWUDI_SHARE * m * n * n
    result = _products(inner, "mixed" if precision == "fast" else "float64") + _products(2 * inner, own)
    return _normal_equations(m, n, k, own) + result + Work(eigen=((n, 1.0),))


def wudi_work(m: int, n: int, k: int, precision: str) -> Work:
    """C and R, and 300 steps."""
    steps = (_products(2.0 * m * n * n, precision) + Work(elementwise=10.0 * m * n)) * 300
    return _normal_equations(m, n, k, precision) + steps


def optmerge_work(m: int, n: int, k: int, precision: str) -> Work:
    """Two decompositions of each expert before."""
    return _svd(m, n, precision, 1 / k, wide=False) * (2 * k) + wudi_work(m, n, k, precision)


def _products(operations: float, precision: str) -> Work:
    """Products in the compute dtype."""
    return Work(float64=operations) if precision == "float64" else Work(float32=operations)


def _formed(m: int, n: int, k: int) -> Work:
    """``k`` task deltas."""
    return Work(elementwise=_FORMED * k * m * n)


def _gram(m: int, n: int) -> Work:
    """The smaller Gram matrix in float64, up to its diagonal."""
    return Work(float64=float(m * n * (min(m, n) + _BLOCK)), elementwise=float(m * n))


def _svd(m: int, n: int, precision: str, share: float = 1.0, wide: bool = True) -> Work:
    """A decomposition with a ``share`` of its directions, ``wide`` with the other side's vectors in float64.

    In ``float64`` LAPACK's SVD, which takes about as long as three eigendecompositions and a product.
    """
    small = min(m, n)
    if precision == "float64":
        return Work(float64=4.0 * m * n * small, eigen=((small, 3.0),))
    right = _products(2.0 * share * m * n * small, "float64" if wide else precision)
    return _gram(m, n) + right + Work(eigen=((small, 1.0),))


def _polar(m: int, n: int, precision: str) -> Work:
    """The polar factors of the directions collected on both sides, and their product."""
    small = min(m, n)
    factors = 2.0 * small * small * (m + n)
    if precision == "float64":
        sides = _svd(m, small, precision) + _svd(small, n, precision)
    else:
        sides = _gram(m, small) + _gram(small, n) + Work(float64=factors, eigen=((small, 2.0),))
    return sides + _products(factors + 2.0 * m * n * small, precision)


def _normal_equations(m: int, n: int, k: int, precision: str) -> Work:
    """C, and R by whichever Gram matrix makes it cheaper."""
    normal = float(m * n * (n + _BLOCK))
    target = float(m * n * (m + _BLOCK)) + 2.0 * m * m * n if 3 * m < 2 * n else 2.0 * m * n * n
    return _products(k * (normal + target), precision) + _formed(m, n, 2 * k) + Work(elementwise=float(k * n * n))


# --- Deltas of low rank --------------------------------------------------------------------------------------------


def factored_rank(m: int, n: int, ranks: Sequence[int]) -> int | None:
    """The sum of the ranks where a form for deltas of low rank is used: while it is at most half the shorter side."""
    total = sum(ranks)
    return total if 0 < 2 * total <= min(m, n) else None


def factored_work(m: int, n: int, rank: int, k: int, precision: str) -> Work:
    """QR of the factors of both sides, small problems of size ``rank``, and the product of what comes out."""
    spaces = 4.0 * (m + n) * rank**2 + 2.0 * m * rank**2
    small = Work(float64=(6.0 * k + 20.0) * rank**3, eigen=((rank, 2.0),))
    return Work(float64=spaces) + small + _products(2.0 * m * n * rank, precision)


def factored_memory(m: int, n: int, rank: int, precision: str) -> float:
    """The factors of both sides in float64 with their QR, or the result's; and small matrices."""
    factors = 8.0 * rank * (m + n)
    return 3 * factors + rank * (m + n) * item_size(precision) + 24 * 8.0 * rank**2 + KEPT


def formed_memory(m: int, n: int, rank: int, precision: str) -> float:
    """The factors of one expert in the compute dtype, from which its delta is formed."""
    return float(rank * (m + n) * item_size(precision))


# --- Memory --------------------------------------------------------------------------------------------------------


def of_result(m: int, n: int, k: int, precision: str) -> float:
    """The merged matrix, where an element-wise method is calibrated."""
    return matrix_memory(m, n, precision)


def svc_memory(m: int, n: int, k: int, precision: str) -> float:
    """The merged delta and the decomposition of its Gram matrix; then both factors, a delta and the result."""
    small = min(m, n)
    decomposed = matrix_memory(m, n, precision) + _eigen_memory(small, 0 if precision == "float64" else 4)
    calibrated = 5 * matrix_memory(m, n, precision) + matrix_memory(small, small, precision)
    return max(decomposed, calibrated + 3 * matrix_memory(_BLOCK, n, precision))


def iso_c_memory(m: int, n: int, k: int, precision: str) -> float:
    """One matrix, its decomposition in float64, both factors in float64 and in the compute dtype."""
    small = min(m, n)
    finished = (8.0 + item_size(precision)) * (small * small + m * n)
    return matrix_memory(m, n, precision) + max(_svd_memory(m, n, precision), finished)


def polar_memory(m: int, n: int, k: int, precision: str) -> float:
    """The collected directions of both sides in float64, and the decomposition of a delta or of one side."""
    small, side = min(m, n), max(m, n)
    collected = 8.0 * small * (m + n)
    one = matrix_memory(m, n, precision) + _svd_memory(m, n, precision)
    polar = _svd_memory(small, side, precision) + 8.0 * small * side
    return collected + max(one, polar)


def star_memory(m: int, n: int, k: int, precision: str) -> float:
    """The result, a delta and its decomposition."""
    copy = 0 if precision == "float64" else 4
    decomposition = _svd_memory(m, n, precision) if copy == 0 else _eigen_memory(min(m, n), copy)
    return 2 * matrix_memory(m, n, precision) + max(decomposition, 2 * matrix_memory(m, n, precision))


def wudi_memory(m: int, n: int, k: int, precision: str) -> float:
    """C, R, a delta and its share of C; then the sum, and the gradient or the state of Adam for some rows."""
    descended = 2 * matrix_memory(m, n, precision) + matrix_memory(n, n, precision)
    descended += max(matrix_memory(m, n, precision), 5 * matrix_memory(min(m, 256), n, precision))
    return max(_summed_memory(m, n, precision), descended)


def optmerge_memory(m: int, n: int, k: int, precision: str) -> float:
    """C, R, the sum and an expert's projector beside a decomposition; or the descent."""
    held = 3 * matrix_memory(m, n, precision) + matrix_memory(n, n, precision)
    return max(held + star_memory(m, n, k, precision), wudi_memory(m, n, k, precision))


def swudi_memory(m: int, n: int, k: int, precision: str) -> float:
    """C and R, then C's decomposition in float64 beside R, then the sum; or the small Gram matrix."""
    precision = swudi_precision(m, n, precision)
    stacked = k * m
    if stacked < n:
        return 2 * matrix_memory(m, n, precision) + 16.0 * m * n + _eigen_memory(stacked) + 8.0 * k * m * m
    decomposed = matrix_memory(m, n, precision) + _eigen_memory(n)
    solved = 2 * matrix_memory(m, n, precision) + 8.0 * (n * n + 2 * _BLOCK * n) + matrix_memory(n, n, precision)
    return max(_summed_memory(m, n, precision), decomposed, solved)


def swudi_a_memory(m: int, n: int, k: int, precision: str) -> float:
    """As SWUDI; float32 arithmetic may have to give way to float64."""
    return swudi_memory(m, n, k, "float64")


def swudi_precision(m: int, n: int, precision: str) -> str:
    """The precision that SWUDI works in: ``float64`` where float32 sums would show and float64 ones cost little.

    Matrices of few columns are cheap beside a model's others, whose decomposition grows with the columns' cube. Of far
    fewer rows than columns C is nearly singular, and the sums are cheap beside its decomposition.
    """
    return "float64" if n <= 1024 or 4 * m <= n else precision


def _summed_memory(m: int, n: int, precision: str) -> float:
    """R and a delta; C and the delta's share of it; and a block that is mirrored."""
    blocks = matrix_memory(_BLOCK, _BLOCK, precision)
    return 2 * matrix_memory(m, n, precision) + 2 * matrix_memory(n, n, precision) + blocks


def _svd_memory(m: int, n: int, precision: str) -> float:
    """A decomposition for factors in float64: of the Gram matrix or, in ``float64``, of the matrix itself."""
    small = min(m, n)
    if precision == "float64":
        return 8.0 * (4 * m * n + 4 * small * small)
    return max(_eigen_memory(small), 8.0 * (small * small + m * n))


def _eigen_memory(size: int, copy: int = 0) -> float:
    """A float64 eigendecomposition: the matrix, its vectors, a ``copy`` of them in so many bytes an entry, panels."""
    return (16.0 + copy) * size * size + 3 * 8 * _PANEL * size
