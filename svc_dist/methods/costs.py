"""What the methods cost: operations by kind and peak memory for one ``(m, n)`` matrix and ``k`` experts.

Operations order work, show progress and feed the simulation of a run; they promise nothing. Memory is a promise, which
plans reserve: the most anonymous bytes that a matrix takes at once, the views of its inputs not counted. This module
does not import torch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Work:
    """Operations by kind, which run at very different rates.

    ``float64``, ``float32``: of matrix products in that dtype; ``elementwise``: in units of a plain
    addition of cached data; ``eigen``: symmetric eigendecompositions in float64, as pairs of their size n and how many.
    ``decoded``, ``encoded``: entries of quantised weights, those of other formats as so many of FP8 blocks.
    """

    float64: float = 0.0
    float32: float = 0.0
    elementwise: float = 0.0
    eigen: tuple[tuple[int, float], ...] = ()
    decoded: float = 0.0
    encoded: float = 0.0

    @property
    def flops(self) -> float:
        """All operations together, with ``9 n^3`` for a decomposition and its vectors."""
        decompositions = sum(9.0 * size**3 * count for size, count in self.eigen)
        return self.float64 + self.float32 + self.elementwise + decompositions + self.decoded + self.encoded

    def __add__(self, other: Work) -> Work:
        counts = dict(self.eigen)
        for size, count in other.eigen:
            counts[size] = counts.get(size, 0.0) + count
        return Work(
            self.float64 + other.float64,
            self.float32 + other.float32,
            self.elementwise + other.elementwise,
            tuple(counts.items()),
            self.decoded + other.decoded,
            self.encoded + other.encoded,
        )

    def __mul__(self, factor: float) -> Work:
        return Work(
            self.float64 * factor,
            self.float32 * factor,
            self.elementwise * factor,
            tuple((size, count * factor) for size, count in self.eigen),
            self.decoded * factor,
            self.encoded * factor,
        )


Operations = Callable[[int, int, int, str], Work]
Memory = Callable[[int, int, int, str], float]

HEAP_SLACK = 32 << 20  #: bytes of small freed blocks that the C library keeps, as workers configure it
#: Host bytes of a unit that computes on a device: staged inputs, results of stacks that wait for their turn (those of
#: at most one unit of ``layout.share``), and what is written.
ON_HOST = 256 << 20
BLOCK = 512  #: rows of a Gram matrix, or of projected deltas, that are handled at once
_PANEL = 192  # reflectors of a tridiagonal form that are applied at once
_FORMED = 3.0  # element-wise operations that an entry of a task delta takes


def item_size(precision: str) -> int:
    """Bytes of an entry in the compute dtype."""
    return 8 if precision == "float64" else 4


def matrix_memory(m: int, n: int, precision: str) -> float:
    """Bytes of one ``(m, n)`` matrix in the compute dtype."""
    return float(m * n * item_size(precision))


def with_heap_slack(memory: Memory) -> Memory:
    """``memory``, and the freed blocks that the C library keeps."""
    return lambda m, n, k, precision: memory(m, n, k, precision) + HEAP_SLACK


def product_work(m: int, n: int, precision: str) -> Work:
    """One product of a matrix with its directions: what another result of the same decomposition costs."""
    return products_work(2.0 * m * n * min(m, n), precision)


def products_work(operations: float, precision: str) -> Work:
    """Products in the compute dtype."""
    return Work(float64=operations) if precision == "float64" else Work(float32=operations)


def deltas_work(m: int, n: int, k: int) -> Work:
    """``k`` task deltas."""
    return Work(elementwise=_FORMED * k * m * n)


def difference_work(elements: float, k: int) -> Work:
    """The norms of the base and of ``k`` task deltas, which are formed for them."""
    return Work(elementwise=((_FORMED + 2) * k + 3) * elements)


def gram_work(m: int, n: int) -> Work:
    """The smaller Gram matrix in float64, up to its diagonal."""
    return Work(float64=float(m * n * (min(m, n) + BLOCK)), elementwise=float(m * n))


def svd_work(m: int, n: int, precision: str, share: float = 1.0, wide: bool = True) -> Work:
    """A decomposition with a ``share`` of its directions, ``wide`` with the other side's vectors in float64.

    In ``float64`` LAPACK's SVD, which takes about as long as three eigendecompositions and a product.
    """
    small = min(m, n)
    if precision == "float64":
        return Work(float64=4.0 * m * n * small, eigen=((small, 3.0),))
    right = products_work(2.0 * share * m * n * small, "float64" if wide else precision)
    return gram_work(m, n) + right + Work(eigen=((small, 1.0),))


def svd_memory(m: int, n: int, precision: str) -> float:
    """A decomposition for factors in float64: of the Gram matrix or, in ``float64``, of the matrix itself."""
    small = min(m, n)
    if precision == "float64":
        return 8.0 * (4 * m * n + 4 * small * small)
    return max(eigen_memory(small), 8.0 * (small * small + m * n))


def eigen_memory(size: int, copy: int = 0) -> float:
    """A float64 eigendecomposition: the matrix, its vectors, a ``copy`` of them in so many bytes an entry, panels."""
    return (16.0 + copy) * size * size + 3 * 8 * _PANEL * size
