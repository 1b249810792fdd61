"""What a pair of factors costs: operations and peak memory, by how it is made."""

from __future__ import annotations

import math

from svc_dist.methods.costs import HEAP_SLACK, Work, matrix_memory, svd_memory, svd_work
from svc_dist.plan.adapters.factor import Factor


def pair_work(factor: Factor, merging: Work, precision: str) -> Work:
    """Operations for both factors, counted with the first. ``merging``: of the merge of the whole tensor."""
    if factor.side == "b":
        return Work()
    count, rows, columns = factor.matrices
    if factor.blocks:
        return Work(elementwise=float(4 * count * factor.rank * (rows + columns)))
    return merging + (svd_work(rows, columns, precision) + Work(float64=2.0 * rows * columns * factor.rank)) * count


def pair_memory(factor: Factor, merging: int, results: int, precision: str) -> int:
    """Peak memory of a pair. ``merging``: of the merge of the whole tensor.

    Factors are made in float64, and kept in the dtype that is written, once more where they are laid out.
    """
    count, rows, columns = factor.matrices
    own = 8 * factor.rank * (rows + columns)
    kept = 3 * results * count * own // 2
    if factor.blocks:
        return kept + 3 * own + HEAP_SLACK
    matrix = matrix_memory(rows, columns, precision)
    decomposed = svd_memory(rows, columns, precision) + 2 * matrix
    return math.ceil(max(merging + matrix, decomposed) + kept + 3 * own + HEAP_SLACK)
