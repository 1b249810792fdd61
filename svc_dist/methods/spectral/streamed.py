"""Sums over the task deltas of a matrix that never hold one of them whole: for matrices that memory is short for.

What comes out differs from the sums of ``normal_equations`` in its last bits, because blocks are added up in another
order.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from svc_dist.linalg.gram import add_gram, mirrored
from svc_dist.methods.deltas import TaskDeltas
from svc_dist.methods.spectral.normal_equations import finite_norm

_BLOCK = 256  # rows or columns of all deltas that are held at once


def blocks(length: int) -> Iterator[slice]:
    """Places of rows or columns, in order."""
    return (slice(start, min(start + _BLOCK, length)) for start in range(0, length, _BLOCK))


def norms(deltas: TaskDeltas) -> list[float]:
    """``||Di||_F`` of every expert. Raises NumericsError naming one that is not finite."""
    parts = [deltas.part(rows=rows) for rows in blocks(deltas.shape[0])]
    return [math.hypot(*(finite_norm(part[index], index) for part in parts)) for index in range(len(deltas))]


def normal_matrix(deltas: TaskDeltas, sizes: list[float]) -> Tensor:
    """``C = sum_i Di^T Di / ||Di||^2 (n, n)`` in the compute dtype, over blocks of rows."""
    columns = deltas.shape[1]
    total = torch.zeros(columns, columns, dtype=deltas.dtype, device=deltas.device)
    for rows in blocks(deltas.shape[0]):
        part = deltas.part(rows=rows)
        for index, size in enumerate(sizes):
            if size:
                add_gram(total, (part[index] / size).T)
    return mirrored(total)


def stacked_gram(deltas: TaskDeltas, used: list[int], sizes: list[float]) -> Tensor:
    """``S S^T (K m, K m)`` in float64 for the stacked, normalised deltas S, over blocks of columns."""
    height = len(used) * deltas.shape[0]
    total = torch.zeros(height, height, dtype=torch.float64, device=deltas.device)
    for columns in blocks(deltas.shape[1]):
        part = deltas.part(columns=columns)
        add_gram(total, torch.cat([part[index].double() / sizes[index] for index in used]))
    return mirrored(total)


def target_product(deltas: TaskDeltas, sizes: list[float], vectors: Tensor, factors: Tensor, total: Tensor) -> None:
    """``R V diag(factors)`` into ``total (m, k)``, for ``R = sum_i Di Di^T Di / ||Di||^2``.

    Formed in the dtype of ``V (n, k)``, of which another such is held.
    """
    height = deltas.shape[0]
    total.zero_()
    for index, size in enumerate(sizes):
        if not size:
            continue
        inner = torch.zeros_like(vectors)
        for rows in blocks(height):
            delta = (deltas.part(rows=rows)[index] / size).to(vectors.dtype)
            inner.addmm_(delta.T, delta @ vectors)
        inner *= factors
        for rows in blocks(height):
            total[rows] += deltas.part(rows=rows)[index].to(vectors.dtype) @ inner


def sum_of(deltas: TaskDeltas) -> Tensor:
    """``sum_i Di`` of the part that ``deltas`` are of a matrix."""
    total = deltas[0]
    for index in range(1, len(deltas)):
        total += deltas[index]
    return total
