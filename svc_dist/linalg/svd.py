"""Thin singular value decompositions and polar factors, from the smaller Gram matrix.

An eigendecomposition of a float64 Gram matrix costs less than a float32 SVD and is more accurate, down to singular
values of 1e-8 of the largest. Only float64 arithmetic can tell what is smaller: there the full SVD decides.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from svc_dist.errors import NumericsError
from svc_dist.linalg import lapack
from svc_dist.linalg.devices.transfer import sent
from svc_dist.linalg.devices.trouble import Trouble, trouble
from svc_dist.linalg.eigen import leading_gram_eigen, symmetric_eigen
from svc_dist.linalg.finite import require_finite
from svc_dist.linalg.gram import gram, product
from svc_dist.linalg.noise import Noise
from svc_dist.linalg.products.polar import polar_with_residual
from svc_dist.linalg.products.svd import svd_by_products
from svc_dist.linalg.residual import Probe

_log = logging.getLogger("svc_dist")
_BESIDE = 16  # vectors iterated beside those wanted
_ITERATIONS = 4
_GRAM_RESOLVES = 1e-9  # of the largest square: a direction is then known to eps / 1e-9 = 2e-7
_TINY = 1e-30  # can be divided by in float32


@dataclass(frozen=True)
class ThinSvd:
    """``left (m, r) diag(values) right (r, n)``: the leading directions of a matrix, values descending.

    ``cut``: how many of the directions asked for were left out because they are rounding, of which ``noisy`` are above
    the rounding level of arithmetic but not above the noise that the matrix came with; ``residual``: how well the
    decomposition fits, relative to what was decomposed.
    """

    left: Tensor
    values: Tensor
    right: Tensor
    cut: int
    residual: float
    noisy: int = 0
    values_here: Tensor | None = None

    @property
    def host_values(self) -> Tensor:
        """The values in the host's memory: what is decided by them costs no wait for a device."""
        return self.values.cpu() if self.values_here is None else self.values_here


def thin_svd(
    matrix: Tensor,
    what: str,
    *,
    count: int | Callable[[Tensor], int] | None = None,
    dtype: torch.dtype | None = None,
    scale: float | Tensor = 0.0,
    noise: Noise | None = None,
    full: bool | None = None,
    finite: bool = False,
) -> ThinSvd:
    """The ``count`` leading singular triplets of an ``(m, n)`` matrix.

    ``count``: default all ``min(m, n)``; or what it makes of the singular values. Directions at rounding level,
    ``sigma_r <= rounding_level(A) * sigma_0``, are left out: their vectors are noise; their values count as zero.
    ``scale`` takes the place of ``sigma_0`` where it is larger (a remainder is as noisy as what it remained from).
    ``noise``: errors that the matrix came with; directions that are not above them are left out as well. ``dtype``: of
    the result and of the products behind it (default: the matrix's); methods that lift small directions take float64.
    ``full``: by LAPACK's SVD (default: of a float64 matrix) instead of the Gram matrix. ``finite``: the entries are
    known to be. ``what`` names the matrix in errors. Raises NumericsError when it is not finite or LAPACK does not
    converge.
    """
    rows, columns = matrix.shape
    least = scale if isinstance(scale, Tensor) else matrix.new_full((), scale, dtype=torch.float64)
    full = matrix.dtype == torch.float64 if full is None else full
    level = rounding_level(matrix, full)

    def wanted(values: Tensor) -> int:
        if not callable(count):
            return min(rows, columns) if count is None else count
        resolved = values > level * values[0].clamp_min(least.to(values))
        if noise is not None:
            resolved &= values > noise.mean_levels(len(values)).to(values)
        return count(torch.where(resolved, values, 0))

    if full:
        left, values, right, residual = full_svd(matrix, what)
        number = wanted(values)
        left, values, right = left[:, :number], values[:number], right[:number]
    elif rows > columns:
        flipped = thin_svd(
            matrix.T, what, count=count, dtype=dtype, scale=scale, noise=None if noise is None else noise.T,
            full=False, finite=finite,
        )  # fmt: skip
        return replace(flipped, left=flipped.right.T, right=flipped.left.T)
    else:
        needed = (lambda squares: wanted(squares.clamp_min(0).sqrt())) if callable(count) else wanted(matrix[0])
        _, left, residual = leading_gram_eigen(matrix, needed, what, dtype or matrix.dtype, finite)
        right = product(left.T, matrix)
        values = torch.linalg.vector_norm(right, dim=1, dtype=torch.float64)
        right /= values.clamp_min(torch.finfo(right.dtype).tiny)[:, None]
        values = values.to(right.dtype)
    return _resolved(ThinSvd(left, values, right, 0, residual), level, least, noise)


def _resolved(svd: ThinSvd, level: float, scale: Tensor, noise: Noise | None) -> ThinSvd:
    """The triplets that are neither at the rounding level of arithmetic nor at that of the matrix's own noise."""
    count = len(svd.values)
    if count == 0:
        return svd
    known = [svd.values, scale.to(svd.values).expand(count)]
    if noise is not None:
        known.append(noise.levels(svd.left, svd.right).to(svd.values))
    here, scales, *levels = torch.stack(known).cpu()  # one wait for a device
    kept = here > level * max(float(scales[0]), float(here[0]))
    exact = int(kept.sum())
    if noise is not None:
        kept &= here > levels[0]
    number = int(kept.sum())
    if bool(kept[:number].all()):
        left, values, right = svd.left[:, :number], svd.values[:number], svd.right[:number]
    else:  # errors that are not spread evenly can be stronger than a direction elsewhere
        places = sent(kept.nonzero().flatten(), svd.values.device)
        left, values, right = svd.left[:, places], svd.values[places], svd.right[places]
    return ThinSvd(left, values, right, count - number, svd.residual, exact - number, here[kept])


def rounding_level(matrix: Tensor, full: bool | None = None) -> float:
    """Singular values up to this share of the largest are rounding noise.

    ``max(m, n) * eps`` for the ``full`` SVD of a float64 matrix (its default). Of a float32 one the entries are exact
    to half an eps, and a Gram matrix in float64 tells directions apart down to the root of its own rounding level.
    """
    noise: float = max(matrix.shape) * torch.finfo(torch.float64).eps
    if matrix.dtype == torch.float64 and full is not False:
        return noise
    return max(math.sqrt(noise), 4 * float(torch.finfo(matrix.dtype).eps))


class Polar(NamedTuple):
    """``U V^T`` of ``A = U S V^T``, how many directions were cut at rounding level, and the residual of the SVD."""

    factor: Tensor
    cut: int
    residual: float


def polar_factor(matrix: Tensor, what: str, dtype: torch.dtype, overwrite: bool = False) -> Polar:
    """The polar factor of a float64 matrix ``(m, n)`` as ``dtype``. ``overwrite`` gives the matrix's memory away.

    Directions are told apart down to ``max(m, n) * eps`` of the largest: as float64 by the SVD; else by the Gram matrix
    first, which is exact to float32 down to 3e-5 of the largest, and where one is smaller by the SVD after all. On a
    GPU products alone come first, which are exact down to 1e-12 of the largest. A polar factor gives every direction
    the same strength: what a Gram matrix loses may be much of it.
    """
    rows, columns = matrix.shape
    if rows > columns:
        factor, cut, residual = polar_factor(matrix.T, what, dtype, overwrite)
        return Polar(factor.T, cut, residual)
    if rows == 0:
        return Polar(matrix.to(dtype), 0, 0.0)
    if matrix.device.type != "cpu" and (found := polar_with_residual(matrix)) is not None:
        return Polar(found[0].to(dtype), 0, found[1])
    require_finite(matrix, what)
    if dtype != torch.float64:
        from_gram = _polar_from_gram(matrix, what, dtype)
        if from_gram is not None:
            return from_gram
        if lapack.usable(matrix):
            return _polar_in_place(matrix if overwrite else matrix.clone(), what, dtype)
    left, values, right, residual = full_svd(matrix, what)
    kept = _above_rounding(values, columns)
    return Polar((left[:, :kept] @ right[:kept]).to(dtype), rows - kept, residual)


def _above_rounding(values: Tensor, length: int) -> int:
    """How many singular values of a matrix, whose longer side has that ``length``, are above rounding level."""
    return int((values > length * torch.finfo(values.dtype).eps * values[:1]).sum())


def _polar_from_gram(matrix: Tensor, what: str, dtype: torch.dtype) -> Polar | None:
    """The polar factor of a matrix with no more rows than columns, the last product in ``dtype``.

    None where its smallest singular values are too small for a Gram matrix.
    """

    def resolved(squares: Tensor) -> int:
        return int((squares > _GRAM_RESOLVES * squares[:1]).sum())

    gram_matrix = gram(matrix, matrix.dtype)
    _, left, residual = symmetric_eigen(gram_matrix, f"the Gram matrix of {what}", count=resolved, overwrite=True)
    del gram_matrix
    if left.shape[1] < len(matrix):
        return None
    right = left.T @ matrix
    right /= torch.linalg.vector_norm(right, dim=1, keepdim=True)
    left, right = left.to(dtype), right.to(dtype)
    return Polar(left @ right, 0, residual)


def _polar_in_place(matrix: Tensor, what: str, dtype: torch.dtype) -> Polar:
    probe = Probe(lambda rows: rows @ matrix, len(matrix), matrix)
    try:
        left, values = lapack.svd_in_place(matrix)
    except lapack.NotConvergedError as error:
        raise NumericsError(f"the singular value decomposition of {what} did not converge: {error}") from None
    residual = probe.residual(left, values, matrix.T)
    probe.require_fit(left, what)
    kept = _above_rounding(values, matrix.shape[1])
    return Polar(left[:, :kept].to(dtype) @ matrix[:kept].to(dtype), len(matrix) - kept, residual)


def full_svd(matrix: Tensor, what: str) -> tuple[Tensor, Tensor, Tensor, float]:
    """LAPACK's thin SVD ``U, s, V^T``, and its residual.

    On a GPU it is made by products and one eigendecomposition, or by its library; and by LAPACK where these fail.

    Raises NumericsError naming ``what``, and RuntimeError of a device that is out of memory or fails.
    """
    require_finite(matrix, what)
    if matrix.device.type != "cpu" and (found := _by_products(matrix, what)) is not None:
        return found
    try:
        probe = Probe(lambda rows: rows @ matrix, len(matrix), matrix)
        left, values, right = torch.linalg.svd(matrix, full_matrices=False)
        residual = probe.residual(left, values, right.T)
        if matrix.device.type == "cpu" or probe.fits(left):
            probe.require_fit(left, what)
            return left, values, right, residual
        _log.warning(f"{what}: the GPU's decomposition is off by {residual:.1e}, LAPACK makes it again")
        del left, values, right
    except RuntimeError as error:
        if trouble(error) is not Trouble.ROUTE:
            raise
        if matrix.device.type == "cpu":
            raise NumericsError(f"the singular value decomposition of {what} did not converge: {error}") from None
        _log.warning(f"{what}: the GPU's library cannot decompose it, LAPACK does: {f'{error}'.splitlines()[0]}")
    left, values, right, residual = full_svd(matrix.cpu(), what)
    return left.to(matrix.device), values.to(matrix.device), right.to(matrix.device), residual


def _by_products(matrix: Tensor, what: str) -> tuple[Tensor, Tensor, Tensor, float] | None:
    """As ``full_svd``, by products and one eigendecomposition; None where that does not fit."""
    if matrix.dtype != torch.float64:
        return None
    if matrix.shape[0] > matrix.shape[1]:
        flipped = _by_products(matrix.T, what)
        return None if flipped is None else (flipped[2].T, flipped[1], flipped[0].T, flipped[3])
    probe = Probe(lambda rows: rows @ matrix, len(matrix), matrix)
    found = svd_by_products(
        matrix, lambda inner: symmetric_eigen(inner, f"the polar part of {what}", overwrite=True)[:2]
    )
    if found is None:
        return None
    left, values, right = found
    residual = probe.residual(left, values, right.T)
    return (left, values, right, residual) if probe.fits(left) else None


def leading_values(matrix: Tensor, count: int) -> list[float]:
    """The ``count`` largest singular values, from below, within some percent: for receipts, and as a yardstick.

    A power iteration with a block of vectors, at a small cost. Nothing of a matrix that is not finite.
    """
    found, low, high = _leading(matrix, count)
    *values, least, most = torch.cat([found, torch.stack([low, high]).to(found)]).cpu().tolist()
    scale = max(-least, most)
    if not 0 < scale <= torch.finfo(matrix.dtype).max:
        return [0.0] * len(values) if scale == 0 else []
    return values


def largest_value(matrix: Tensor) -> Tensor:
    """The largest singular value as ``leading_values`` estimates it, in float64: nothing waits for a device."""
    return _leading(matrix, 1)[0][0]


def _leading(matrix: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """The leading singular values in float64, zero where an entry is not finite; the least and the largest entry."""
    low, high = torch.aminmax(matrix)
    scale = torch.maximum(-low, high).clamp_min(_TINY)
    generator = torch.Generator().manual_seed(0)
    size = min(count + _BESIDE, *matrix.shape)
    block = sent(torch.randn(matrix.shape[1], size, generator=generator).to(matrix.dtype), matrix.device)
    for _ in range(_ITERATIONS):
        space = torch.linalg.qr(matrix @ (block / scale)).Q
        image = matrix.T @ (space / scale)
        block = torch.linalg.qr(image).Q
    image = torch.where(torch.isfinite(scale), image, 0)  # of a NaN no library makes singular values
    scale = torch.where(torch.isfinite(scale), scale, 0)
    return scale.double() * torch.linalg.svdvals(image)[:count].double(), low, high
