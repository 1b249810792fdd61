"""Thin singular value decompositions and polar factors, from the smaller Gram matrix.

An eigendecomposition of a float64 Gram matrix costs less than a float32 SVD and is more accurate, down to singular
values of 1e-8 of the largest. Only float64 arithmetic can tell what is smaller: there the full SVD decides.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from svc_dist.errors import NumericsError
from svc_dist.linalg.eigen import leading_gram_eigen, symmetric_eigen
from svc_dist.linalg.finite import require_finite
from svc_dist.linalg.gram import gram, product
from svc_dist.linalg.residual import Probe

_BESIDE = 16  # vectors iterated beside those wanted
_ITERATIONS = 4
_TINY = 1e-30  # can be divided by in float32


@dataclass(frozen=True)
class ThinSvd:
    """``left (m, r) diag(values) right (r, n)``: the leading directions of a matrix, values descending.

    ``cut``: how many of the directions asked for were at rounding level and left out; ``residual``: how well the
    decomposition fits, relative to what was decomposed.
    """

    left: Tensor
    values: Tensor
    right: Tensor
    cut: int
    residual: float


def thin_svd(
    matrix: Tensor,
    what: str,
    *,
    count: int | Callable[[Tensor], int] | None = None,
    dtype: torch.dtype | None = None,
    scale: float = 0.0,
) -> ThinSvd:
    """The ``count`` leading singular triplets of an ``(m, n)`` matrix.

    ``count``: default all ``min(m, n)``; or what it makes of the singular values. Directions at rounding level,
    ``sigma_r <= rounding_level(A) * sigma_0``, are left out: their vectors are noise; their values count as zero.
    ``scale`` takes the place of ``sigma_0`` where it is larger (a remainder is as noisy as what it remained from).
    ``dtype``: of the result and of the products behind it (default: the matrix's); methods that lift small directions
    take float64. ``what`` names the matrix in errors. Raises NumericsError when it is not finite or LAPACK does not
    converge.
    """
    rows, columns = matrix.shape
    level = rounding_level(matrix)

    def wanted(values: Tensor) -> int:
        if not callable(count):
            return min(rows, columns) if count is None else count
        return count(torch.where(values > level * max(scale, float(values[0])), values, 0))

    if matrix.dtype == torch.float64:
        left, values, right, residual = full_svd(matrix, what)
        values = values[: wanted(values)]
    elif rows > columns:
        flipped = thin_svd(matrix.T, what, count=count, dtype=dtype, scale=scale)
        return ThinSvd(flipped.right.T, flipped.values, flipped.left.T, flipped.cut, flipped.residual)
    else:
        needed = (lambda squares: wanted(squares.clamp_min(0).sqrt())) if callable(count) else wanted(matrix[0])
        _, left, residual = leading_gram_eigen(matrix, needed, what, dtype or matrix.dtype)
        right = product(left.T, matrix)
        values = torch.linalg.vector_norm(right, dim=1)
        right /= values.clamp_min(torch.finfo(values.dtype).tiny)[:, None]
    kept = int((values > level * max(scale, float(values[0]))).sum()) if len(values) else 0
    return ThinSvd(left[:, :kept], values[:kept], right[:kept], len(values) - kept, residual)


def rounding_level(matrix: Tensor) -> float:
    """Singular values up to this share of the largest are rounding noise.

    ``max(m, n) * eps`` for the SVD of a float64 matrix. Of a float32 one the entries are exact to half an eps, and a
    Gram matrix in float64 tells directions apart down to the root of its own rounding level.
    """
    noise = max(matrix.shape) * torch.finfo(torch.float64).eps
    return noise if matrix.dtype == torch.float64 else max(noise**0.5, 4 * torch.finfo(matrix.dtype).eps)


class Polar(NamedTuple):
    """``U V^T`` of ``A = U S V^T``, how many directions were cut at rounding level, and the residual of the SVD."""

    factor: Tensor
    cut: int
    residual: float


def polar_factor(matrix: Tensor, what: str, dtype: torch.dtype) -> Polar:
    """The polar factor of a float64 matrix ``(m, n)`` as ``dtype``.

    As float64 through the SVD, which tells directions apart down to ``max(m, n) * eps`` of the largest; else through
    the Gram matrix, down to the root of that, and with the last product in ``dtype``.
    """
    rows, columns = matrix.shape
    if rows > columns:
        factor, cut, residual = polar_factor(matrix.T, what, dtype)
        return Polar(factor.T, cut, residual)
    noise = max(rows, columns) * torch.finfo(matrix.dtype).eps
    if dtype == torch.float64:
        left, values, right, residual = full_svd(matrix, what)
        kept = int((values > noise * values[0]).sum()) if rows else 0
        return Polar(left[:, :kept] @ right[:kept], rows - kept, residual)

    def above_noise(squares: Tensor) -> int:
        return int((squares > noise * squares[0]).sum()) if rows else 0

    gram_matrix = gram(matrix, matrix.dtype)
    _, left, residual = symmetric_eigen(gram_matrix, f"the Gram matrix of {what}", count=above_noise, overwrite=True)
    del gram_matrix
    right = left.T @ matrix
    right /= torch.linalg.vector_norm(right, dim=1, keepdim=True)
    left, right = left.to(dtype), right.to(dtype)
    return Polar(left @ right, rows - left.shape[1], residual)


def full_svd(matrix: Tensor, what: str) -> tuple[Tensor, Tensor, Tensor, float]:
    """LAPACK's thin SVD ``U, s, V^T``, and its residual. Raises NumericsError naming ``what``."""
    require_finite(matrix, what)
    probe = Probe(lambda rows: rows @ matrix, len(matrix), matrix)
    try:
        left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]
        raise NumericsError(f"the singular value decomposition of {what} did not converge: {error}") from None
    return left, values, right, probe.residual(left, values, right.T)


def leading_values(matrix: Tensor, count: int) -> list[float]:
    """The ``count`` largest singular values, from below, within some percent: for receipts, and as a yardstick.

    A power iteration with a block of vectors: a small share of a decomposition's cost. Nothing of a matrix that is not
    finite.
    """
    low, high = torch.aminmax(matrix)
    scale = max(-float(low), float(high))
    if not 0 < scale <= torch.finfo(matrix.dtype).max:
        return [0.0] * min(count, *matrix.shape) if scale == 0 else []
    scale = max(scale, _TINY)
    generator = torch.Generator().manual_seed(0)
    block = torch.randn(matrix.shape[1], min(count + _BESIDE, *matrix.shape), generator=generator).to(matrix)
    for _ in range(_ITERATIONS):
        space = torch.linalg.qr(matrix @ (block / scale)).Q
        image = matrix.T @ (space / scale)
        block = torch.linalg.qr(image).Q
    return [scale * float(value) for value in torch.linalg.svdvals(image)[:count]]
