"""Which way a spectral method computes a matrix: decided once, for the function and for its cost.

Importing this loads no torch.
"""

from __future__ import annotations

from collections.abc import Sequence


def small_gram_is_cheaper(m: int, n: int, k: int) -> bool:
    """Whether the Gram matrix of k stacked deltas ``(k m, k m)`` is smaller than their ``C (n, n)``."""
    return k * m < n


def left_gram_is_cheaper(m: int, n: int) -> bool:
    """Whether ``(Di Di^T) Di`` costs less than ``Di (Di^T Di)`` where the sum of all ``Di^T Di`` is needed as well."""
    return 3 * m < 2 * n


def blocks_save_memory(m: int, n: int) -> bool:
    """Whether SWUDI's peak is lower where R is formed in blocks: of a wide matrix R is small beside C's eigenvectors.

    Measured with K = 4: 142 MiB as usual and 156 MiB in blocks for 1024 x 2816; 15 % less in blocks for 4400 x 1100.
    """
    return m > n


def swudi_precision(m: int, n: int, precision: str) -> str:
    """The precision that SWUDI works in: ``float64``, but ``fast`` only where that costs little.

    Sums in float32 mix directions of nearly equal strength, of which the rank cut keeps one and not the other. Matrices
    of few columns are cheap beside a model's others, whose decomposition grows with the columns' cube. Of far fewer
    rows than columns C is nearly singular, and the sums are cheap beside its decomposition.
    """
    return "float64" if precision != "fast" or n <= 1024 or 4 * m <= n else precision


def factored_rank(m: int, n: int, ranks: Sequence[int]) -> int | None:
    """The sum of the ranks where a form for deltas of low rank is used: while it is at most half the shorter side."""
    total = sum(ranks)
    return total if 0 < 2 * total <= min(m, n) else None
