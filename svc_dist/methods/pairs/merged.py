"""The pairs of factors of one tensor's merged deltas, matrix after matrix."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from svc_dist.methods.apply import (
    ResultParameters,
    elementwise_matrix,
    in_matrix_precision,
    merged_matrices,
)
from svc_dist.methods.blocks import Blocks
from svc_dist.methods.deltas import TaskDeltas
from svc_dist.methods.low_rank import Change, LowRank
from svc_dist.methods.method import Statistics
from svc_dist.methods.pairs.pair import Pair, best_of_product, best_pair, no_pair, stacked_pair
from svc_dist.methods.registry import METHODS

_Batch = tuple[int, int, int]


def stacked_pairs(
    deltas: TaskDeltas, shares: Sequence[Sequence[float]], matrices: _Batch, blocks: tuple[int, ...], dtype: torch.dtype
) -> Iterator[list[Pair]]:
    """The pairs of each matrix in every result, where a result is the sum of the experts' deltas with its ``shares``.

    ``matrices``: ``(count, rows, columns)`` as stored; ``blocks``: the rank reserved for each expert.
    """
    count, rows, columns = matrices
    for number in range(count):
        changes = deltas.matrix(number, matrices).changes
        products = [_as_product(change, rows, columns) for change in changes]
        yield [stacked_pair(products, list(each), blocks, (rows, columns), dtype) for each in shares]


def shares_of(method: str | None, parameters: Mapping[str, Any], experts: int, source: int) -> list[float]:
    """What a method that adds deltas up multiplies each one with; 1 for a copied model ``source`` (from 1), else 0."""
    unit = torch.eye(experts, dtype=torch.float64)
    if method is None:
        return unit[source - 1].tolist()
    deltas = TaskDeltas(list(unit), torch.zeros(experts, dtype=torch.float64), precision="float64")
    merged = METHODS[method].load()(deltas, **parameters)
    return [0.0] * experts if merged is None else merged.tolist()


def best_pairs(
    deltas: TaskDeltas,
    method: str | None,
    results: Sequence[ResultParameters],
    scales: Sequence[float],
    matrices: _Batch,
    rank: int,
    dtype: torch.dtype,
    *,
    batch: _Batch | None = None,
    turned: bool = False,
    source: int = 0,
) -> Iterator[list[Pair]]:
    """The pairs of each matrix in every result, of the best ``rank`` for what the method merges.

    ``batch``: ``(count, m, n)`` where the method works on matrices, or sides matter to it, ``turned`` if these are
    stored as their transposes; ``method``: None where the delta of model ``source`` (from 1) is taken. Raises
    NumericsError.
    """
    count, rows, columns = matrices
    statistics = wide = None
    if method is not None:
        statistics = Statistics(deltas, METHODS[method])
        wide = Statistics(in_matrix_precision(deltas, METHODS[method]), METHODS[method])
    for number in range(count):
        matrix = deltas.matrix(number, matrices)
        pairs = [no_pair(rows, columns, rank, dtype) for _ in results]
        if method is None or METHODS[method].zero == "never" or not matrix.all_zero():
            for index, merged in _merged(matrix, method, results, statistics, wide, batch, turned, source):
                what = f"the delta merged by {method}"
                if isinstance(merged, LowRank):
                    pairs[index] = best_of_product(merged, scales[index], rank, dtype, what)
                else:
                    pairs[index] = best_pair(merged, scales[index], rank, dtype, what)
                del merged  # before the next one is made
        yield pairs


def _merged(
    matrix: TaskDeltas,
    method: str | None,
    results: Sequence[ResultParameters],
    statistics: Statistics | None,
    wide: Statistics | None,
    batch: _Batch | None,
    turned: bool,
    source: int,
) -> Iterator[tuple[int, Tensor | LowRank]]:
    """The merged delta of one matrix as stored, with the index of its result."""
    if method is None:
        yield from ((index, matrix[source - 1]) for index in range(len(results)))
        return
    chosen = METHODS[method]
    if batch is None:
        for index, one in enumerate(results):
            yield index, elementwise_matrix(matrix, chosen, one.parameters, statistics)
        return
    seen = matrix.transposed() if turned else matrix
    for index, merged in merged_matrices(seen, chosen, results, (), statistics, wide, turned):
        if isinstance(merged, LowRank):
            yield index, merged.transposed() if turned else merged
        else:
            yield index, merged.T if turned else merged
        del merged


def _as_product(change: Change | None, rows: int, columns: int) -> LowRank:
    """What an adapter adds to a matrix as one product; without rank where it adds nothing."""
    if change is None:
        return LowRank(torch.zeros(rows, 0), torch.zeros(0, columns))
    if isinstance(change, Blocks):
        return change.transposed().transposed()
    whole = change.part(slice(None), slice(None))
    if not isinstance(whole, LowRank):
        raise TypeError("only a matrix of factors is stacked")
    return whole
