"""Symmetric eigendecompositions: all eigenpairs of a matrix, or the leading ones of a matrix or of ``A A^T``."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from svc_dist.errors import NumericsError
from svc_dist.linalg import lapack
from svc_dist.linalg.devices.limits import largest_eigenproblem
from svc_dist.linalg.devices.trouble import Trouble, trouble
from svc_dist.linalg.finite import require_finite
from svc_dist.linalg.gram import gram
from svc_dist.linalg.krylov import krylov_pays, leading_eigenpairs
from svc_dist.linalg.products.halves import eigen_of_halves
from svc_dist.linalg.residual import Probe

_log = logging.getLogger("svc_dist")
_KRYLOV_FITS = 1e-11  # residual of a direction: ten times what a Krylov space converges to


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
    finite: bool = False,
) -> Eigen:
    """Eigenvalues (descending) and eigenvectors (columns) of a symmetric ``(n, n)`` matrix, computed in its dtype.

    All eigenvalues ``(n)``; the eigenvectors of the ``count`` largest ones (default: all; or what ``count`` makes of
    the eigenvalues), ``(n, count)``, cast to ``dtype``. ``what`` names the matrix in errors. ``overwrite`` gives the
    matrix's memory away; ``finite``: its entries are known to be. Raises NumericsError when an entry is not finite, or
    LAPACK does not converge or fit.
    """
    if not finite:
        require_finite(matrix, what)
    dtype = dtype or matrix.dtype
    if matrix.device.type != "cpu":
        return _on_device(matrix, what, count, dtype)
    probe = Probe(lambda rows: rows @ matrix, len(matrix), matrix)
    try:
        if lapack.usable(matrix):
            reduced = lapack.Tridiagonal(matrix if overwrite else matrix.clone())
            values = reduced.values().flip(0)
            vectors = reduced.vectors(_wanted(count, values), dtype)
        else:
            values, vectors = _eigh(matrix, count, dtype)
    except (torch.linalg.LinAlgError, lapack.NotConvergedError) as error:  # type: ignore[attr-defined]
        raise NumericsError(f"the eigendecomposition of {what} did not converge: {error}") from None
    residual = probe.residual(vectors, values, vectors)
    probe.require_fit(vectors, what)
    return Eigen(values, vectors, residual)


def _on_device(matrix: Tensor, what: str, count: int | Callable[[Tensor], int] | None, dtype: torch.dtype) -> Eigen:
    """As ``symmetric_eigen``: by the device's library where that takes the matrix and what it finds fits, else LAPACK.

    Raises RuntimeError of a device that is out of memory or fails.
    """
    probe = Probe(lambda rows: rows @ matrix, len(matrix), matrix)
    try:
        values, vectors = _eigh(matrix, count, dtype)
    except RuntimeError as error:
        if trouble(error) is not Trouble.ROUTE:
            raise
        _log.warning(f"{what}: the GPU's library cannot decompose it, LAPACK does: {f'{error}'.splitlines()[0]}")
    else:
        residual = probe.residual(vectors, values, vectors)
        if probe.fits(vectors):
            return Eigen(values, vectors, residual)
        _log.warning(f"{what}: the GPU's decomposition is off by {residual:.1e}, LAPACK makes it again")
        del values, vectors
    found = symmetric_eigen(matrix.cpu(), what, count=count, dtype=dtype, overwrite=True)
    return Eigen(found.values.to(matrix.device), found.vectors.to(matrix.device), found.residual)


def _eigh(matrix: Tensor, count: int | Callable[[Tensor], int] | None, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    largest = None if matrix.device.type == "cpu" else largest_eigenproblem(torch.__version__)
    if largest is None or len(matrix) <= largest:
        values, vectors = torch.linalg.eigh(matrix)
    else:
        values, vectors = eigen_of_halves(matrix, largest, torch.linalg.eigh)
    values = values.flip(0)
    return values, vectors[:, len(matrix) - _wanted(count, values) :].to(dtype).flip(1)


def _wanted(count: int | Callable[[Tensor], int] | None, values: Tensor) -> int:
    return len(values) if count is None else count if isinstance(count, int) else count(values)


def leading_eigen(matrix: Tensor, count: int, what: str) -> Eigen:
    """The ``count`` largest eigenvalues and their eigenvectors ``(n, count)`` of a positive semidefinite matrix.

    In float64, from a Krylov space where few are wanted. ``matrix (n, n)`` may be overwritten. Raises NumericsError.
    """
    wide = matrix.double()
    if krylov_pays(len(matrix), count, matrix.device):
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
    residual = Probe(apply, len(wide), wide).residual(vectors, values, vectors)
    return Eigen(values, vectors, residual) if residual <= _KRYLOV_FITS * math.sqrt(count) else None


def leading_gram_eigen(
    matrix: Tensor, count: int | Callable[[Tensor], int], what: str, dtype: torch.dtype, finite: bool = False
) -> Eigen:
    """The ``count`` leading eigenpairs of ``A A^T (m, m)`` for ``A (m, n)``, ``m <= n``: its left singular vectors.

    In float64; ``count`` may be a function of the eigenvalues, and vectors are returned as ``dtype``. From a Krylov
    space where few are wanted. ``finite``: the entries are known to be. Raises NumericsError.
    """
    few = isinstance(count, int) and krylov_pays(len(matrix), count, matrix.device)
    whole_on_device = not few and matrix.device.type != "cpu"
    if not finite and not whole_on_device:
        require_finite(matrix, what)
    if few:
        assert isinstance(count, int)
        wide = matrix.double()
        leading = _krylov(lambda block: (block @ wide) @ wide.T, count, wide)
        if leading is not None:
            return leading._replace(vectors=leading.vectors.to(dtype))
        del wide
    products = gram(matrix)
    if not finite and whole_on_device:  # what is not finite shows in them too, and they are fewer
        require_finite(products, what)
    return symmetric_eigen(
        products, f"the Gram matrix of {what}", count=count, dtype=dtype, overwrite=True, finite=whole_on_device
    )
