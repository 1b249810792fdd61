"""Gram matrices and products, in blocks that need no copy of a matrix in another dtype."""

from __future__ import annotations

import torch
from torch import Tensor

from svc_dist.linalg.devices.grain import lines, on_the_cpu

_COLUMNS = 1024  # columns of a matrix that are cast at once
_ROWS = 512  # rows of a Gram matrix that are computed at once, up to its diagonal
_ROWS_ON_DEVICE = 2048


def gram(matrix: Tensor, dtype: torch.dtype = torch.float64) -> Tensor:
    """``A A^T`` of an ``(m, n)`` matrix, accumulated in ``dtype`` over blocks of columns. Shape ``(m, m)``."""
    rows, columns = matrix.shape
    total = torch.zeros(rows, rows, dtype=dtype, device=matrix.device)
    step = columns if matrix.dtype == dtype else lines(matrix.device, _COLUMNS, rows)
    for start in range(0, columns, max(step, 1)):
        add_gram(total, matrix[:, start : start + step].to(dtype))
    return mirrored(total)


def add_gram(total: Tensor, matrix: Tensor, scale: float = 1.0) -> None:
    """Add ``scale * A A^T`` to the lower triangle of ``total (m, m)``, at little more than half a product's cost.

    Entries above the diagonal are left undefined: see :func:`mirrored`.
    """
    rows = _rows(matrix)
    for start in range(0, matrix.shape[0], rows):
        end = min(start + rows, matrix.shape[0])
        total[start:end, :end].addmm_(matrix[start:end], matrix[:end].T, alpha=scale)


def mirrored(total: Tensor) -> Tensor:
    """``total (m, m)`` itself, its lower triangle copied over its upper one."""
    rows = _rows(total)
    for start in range(0, total.shape[0], rows):
        end = min(start + rows, total.shape[0])
        total[start:end, end:] = total[end:, start:end].T
        corner = total[start:end, start:end]
        corner.tril_()
        corner += corner.tril(-1).T
    return total


def product(left: Tensor, matrix: Tensor) -> Tensor:
    """``L (k, m) A (m, n)`` in the dtype of ``L``, without a copy of ``A`` in it."""
    if left.dtype == matrix.dtype:
        return left @ matrix
    result = torch.empty(left.shape[0], matrix.shape[1], dtype=left.dtype, device=matrix.device)
    step = lines(matrix.device, _COLUMNS, len(matrix))
    for start in range(0, matrix.shape[1], step):
        part = slice(start, start + step)
        torch.matmul(left, matrix[:, part].to(left.dtype), out=result[:, part])
    return result


def _rows(matrix: Tensor) -> int:
    return _ROWS if on_the_cpu(matrix.device) else _ROWS_ON_DEVICE
