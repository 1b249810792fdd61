"""Symmetric eigendecompositions: all eigenpairs of a matrix, or the leading ones of a matrix or of ``A A^T``."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from svc_dist.errors import NumericsError
from svc_dist.linalg import lapack
from svc_dist.linalg.finite import require_finite
from svc_dist.linalg.gram import gram
from svc_dist.linalg.krylov import krylov_pays, leading_eigenpairs
from svc_dist.linalg.residual import Probe


class Eigen(NamedTuple):
    """Eigenvalues (descending), eigenvectors of the leading ones (columns), and how well they fit: see ``Probe``."""

    values: Tensor
    vectors: Tensor
    residual: float


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
        leading = _krylov(lambda block: block @ wide, count, wide)
        if leading is not None:
            return leading
    values, vectors, residual = symmetric_eigen(wide, what, count=count, overwrite=True)
    return Eigen(values[:count], vectors, residual)


def _krylov(apply: Callable[[Tensor], Tensor], count: int, wide: Tensor) -> Eigen | None:
    pairs = leading_eigenpairs(apply, len(wide), count, device=wide.device)
    if pairs is None:
        return None
    values, vectors = pairs
    return Eigen(values, vectors, Probe(apply, len(wide), wide).residual(vectors, values, vectors))


def leading_gram_eigen(matrix: Tensor, count: int | Callable[[Tensor], int], what: str, dtype: torch.dtype) -> Eigen:
    """The ``count`` leading eigenpairs of ``A A^T (m, m)`` for ``A (m, n)``, ``m <= n``: its left singular vectors.

    In float64; ``count`` may be a function of the eigenvalues, and vectors are returned as ``dtype``. From a Krylov
    space where few are wanted. Raises NumericsError.
    """
    require_finite(matrix, what)
    if isinstance(count, int) and krylov_pays(len(matrix), count):
        wide = matrix.double()
        leading = _krylov(lambda block: (block @ wide) @ wide.T, count, wide)
        if leading is not None:
            return leading._replace(vectors=leading.vectors.to(dtype))
        del wide
    return symmetric_eigen(gram(matrix), f"the Gram matrix of {what}", count=count, dtype=dtype, overwrite=True)
