"""Spectral linear algebra shared by the methods: precision levels, Gram matrices, eigendecompositions.

Three levels of precision, named in recipes and results:

``float64``  everything in float64;
``mixed``    eigendecompositions and the Gram matrices that stand for a squared spectrum in float64, other products in
             float32 (the default; more accurate than a float32 full SVD);
``fast``     like ``mixed``, with products that only yield coefficients in bfloat16 where the processor has it.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from svc_dist.errors import NumericsError
from svc_dist.methods import lapack
from svc_dist.methods.krylov import krylov_pays, leading_eigenpairs

PRECISIONS = ("mixed", "fast", "float64")
_COLUMNS = 1024  # columns of a matrix that are cast at once
_ROWS = 512  # rows of a Gram matrix that are computed at once, up to its diagonal
_PROBES = 4


class Eigen(NamedTuple):
    """Eigenvalues (descending), eigenvectors of the leading ones (columns), and how well they fit: see ``Probe``."""

    values: Tensor
    vectors: Tensor
    residual: float


class Probe:
    """Random rows X and their product with a matrix A before its decomposition, to see afterwards how well that fits.

    ``apply``: ``X (4, m) -> X A``; ``like``: a tensor of the dtype and device to work in.
    """

    def __init__(self, apply: Callable[[Tensor], Tensor], size: int, like: Tensor) -> None:
        generator = torch.Generator().manual_seed(0)
        self.rows = torch.randn(_PROBES, size, generator=generator).to(like)
        self.images = apply(self.rows)

    def residual(self, left: Tensor, values: Tensor, right: Tensor) -> float:
        """An estimate of ``||A V - U diag(s)||_F / s_0`` for leading triplets ``U (m, k)``, ``s``, ``V (n, k)``."""
        scale = float(values[0]) if len(values) else 0.0
        if scale <= 0:
            return 0.0
        kind = left.dtype
        error = self.images.to(kind) @ right - (self.rows.to(kind) @ left) * values[: left.shape[1]].to(kind)
        return float(torch.linalg.vector_norm(error)) / (math.sqrt(_PROBES) * scale)


def compute_dtype(precision: str) -> torch.dtype:
    """The dtype that deltas are formed in and that most products run in."""
    return torch.float64 if precision == "float64" else torch.float32


@functools.cache
def coefficient_dtype(precision: str, device: str) -> torch.dtype:
    """The dtype for products that only yield coefficients (never entries of the result)."""
    if precision == "fast":
        native = torch.cuda.is_bf16_supported() if device.startswith("cuda") else torch.cpu._is_avx512_bf16_supported()
        if native:
            return torch.bfloat16
    return compute_dtype(precision)


def gram(matrix: Tensor, dtype: torch.dtype = torch.float64) -> Tensor:
    """``A A^T`` of an ``(m, n)`` matrix, accumulated in ``dtype`` over blocks of columns. Shape ``(m, m)``."""
    rows, columns = matrix.shape
    total = torch.zeros(rows, rows, dtype=dtype, device=matrix.device)
    step = columns if matrix.dtype == dtype else _COLUMNS
    for start in range(0, columns, max(step, 1)):
        add_gram(total, matrix[:, start : start + step].to(dtype))
    return mirrored(total)


def add_gram(total: Tensor, matrix: Tensor, scale: float = 1.0) -> None:
    """Add ``scale * A A^T`` to the lower triangle of ``total (m, m)``, at little more than half a product's cost.

    Entries above the diagonal are left undefined: see :func:`mirrored`.
    """
    for start in range(0, matrix.shape[0], _ROWS):
        end = min(start + _ROWS, matrix.shape[0])
        total[start:end, :end].addmm_(matrix[start:end], matrix[:end].T, alpha=scale)


def mirrored(total: Tensor) -> Tensor:
    """``total (m, m)`` itself, its lower triangle copied over its upper one."""
    for start in range(0, total.shape[0], _ROWS):
        end = min(start + _ROWS, total.shape[0])
        total[start:end, end:] = total[end:, start:end].T
        corner = total[start:end, start:end]
        corner.tril_()
        corner += corner.tril(-1).T
    return total


def symmetric_eigen(
    matrix: Tensor,
    what: str,
    *,
    count: int | Callable[[Tensor], int] | None = None,
    dtype: torch.dtype | None = None,
    overwrite: bool = False,
) -> Eigen:
    """Eigenvalues (descending) and eigenvectors (columns) of a symmetric ``(n, n)`` matrix, computed in its dtype.

    All eigenvalues ``(n)``; the eigenvectors of the ``count`` largest ones (default: all; or what ``count`` makes of
    the eigenvalues), ``(n, count)``, cast to ``dtype``. ``what`` names the matrix in errors. ``overwrite`` gives the
    matrix's memory away. Raises NumericsError when an entry is not finite or LAPACK does not converge.
    """
    require_finite(matrix, what)
    dtype = dtype or matrix.dtype
    probe = Probe(lambda rows: rows @ matrix, len(matrix), matrix)
    try:
        if lapack.usable(matrix):
            reduced = lapack.Tridiagonal(matrix if overwrite else matrix.clone())
            values = reduced.values().flip(0)
            vectors = reduced.vectors(_wanted(count, values), dtype)
        else:
            values, vectors = torch.linalg.eigh(matrix)
            values = values.flip(0)
            vectors = vectors[:, len(matrix) - _wanted(count, values) :].to(dtype).flip(1)
    except (torch.linalg.LinAlgError, lapack.NotConvergedError) as error:  # type: ignore[attr-defined]
        raise NumericsError(f"the eigendecomposition of {what} did not converge: {error}") from None
    return Eigen(values, vectors, probe.residual(vectors, values, vectors))


def _wanted(count: int | Callable[[Tensor], int] | None, values: Tensor) -> int:
    return len(values) if count is None else count if isinstance(count, int) else count(values)


def leading_eigen(matrix: Tensor, count: int, what: str) -> Eigen:
    """The ``count`` largest eigenvalues and their eigenvectors ``(n, count)`` of a positive semidefinite matrix.

    In float64, from a Krylov space where few are wanted. ``matrix (n, n)`` may be overwritten. Raises NumericsError.
    """
    wide = matrix.double()
    if krylov_pays(len(matrix), count):
        require_finite(matrix, what)
        found = _krylov(lambda block: block @ wide, count, wide)
        if found is not None:
            return found
    values, vectors, residual = symmetric_eigen(wide, what, count=count, overwrite=True)
    return Eigen(values[:count], vectors, residual)


def _krylov(apply: Callable[[Tensor], Tensor], count: int, wide: Tensor) -> Eigen | None:
    found = leading_eigenpairs(apply, len(wide), count, device=wide.device)
    if found is None:
        return None
    values, vectors = found
    return Eigen(values, vectors, Probe(apply, len(wide), wide).residual(vectors, values, vectors))


def product(left: Tensor, matrix: Tensor) -> Tensor:
    """``L (k, m) A (m, n)`` in the dtype of ``L``, without a copy of ``A`` in it."""
    if left.dtype == matrix.dtype:
        return left @ matrix
    result = torch.empty(left.shape[0], matrix.shape[1], dtype=left.dtype, device=matrix.device)
    for start in range(0, matrix.shape[1], _COLUMNS):
        part = slice(start, start + _COLUMNS)
        torch.matmul(left, matrix[:, part].to(left.dtype), out=result[:, part])
    return result


def leading_gram_eigen(matrix: Tensor, count: int | Callable[[Tensor], int], what: str, dtype: torch.dtype) -> Eigen:
    """The ``count`` leading eigenpairs of ``A A^T (m, m)`` for ``A (m, n)``, ``m <= n``: its left singular vectors.

    In float64; ``count`` may be a function of the eigenvalues, and vectors are returned as ``dtype``. From a Krylov
    space where few are wanted. Raises NumericsError.
    """
    require_finite(matrix, what)
    if isinstance(count, int) and krylov_pays(len(matrix), count):
        wide = matrix.double()
        found = _krylov(lambda block: (block @ wide) @ wide.T, count, wide)
        if found is not None:
            return found._replace(vectors=found.vectors.to(dtype))
        del wide
    return symmetric_eigen(gram(matrix), f"the Gram matrix of {what}", count=count, dtype=dtype, overwrite=True)


def require_finite(tensor: Tensor, what: str) -> None:
    """Raise NumericsError when ``tensor`` holds a NaN or an infinity."""
    if not all_finite(tensor):
        raise NumericsError(f"{what} has entries that are not finite")


def all_finite(tensor: Tensor) -> bool:
    """Whether every entry is finite; one pass, no temporary of the tensor's size."""
    if tensor.numel() == 0 or not tensor.is_floating_point():
        return True
    low, high = torch.aminmax(tensor)
    return bool(torch.isfinite(low)) and bool(torch.isfinite(high))
