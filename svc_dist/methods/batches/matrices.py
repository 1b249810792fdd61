"""Decompositions of many matrices at once, on a device: what is seldom decides nothing here, but is found and said.

A decomposition that does not fit, or a library that refuses, raises ``Alone``: the matrices are then merged one by one,
where another way is found. Ranks differ from matrix to matrix: directions that are cut become zero.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from svc_dist.linalg.devices.transfer import sent
from svc_dist.linalg.devices.trouble import Trouble, trouble
from svc_dist.linalg.products.polar import LEAST, ORTHONORMAL, scales
from svc_dist.linalg.svd import rounding_level
from svc_dist.methods.batches.noise import Noises

_PROBES = 4
_MARGIN = 300.0  # as of one matrix: times what rounding alone is expected to leave
_BESIDE, _ITERATIONS = 16, 4  # as of one matrix: vectors iterated beside those wanted, and how often
_FAINT = 1e-280  # the largest value of a matrix whose rounding is that of denormal numbers


class Alone(Exception):  # noqa: N818, it is no error
    """These matrices must be merged one by one."""


@dataclass(frozen=True)
class Eigens:
    """Of symmetric ``(b, n, n)``: eigenvalues ``(b, n)``, descending; eigenvectors, as columns; residuals (b)."""

    values: Tensor
    vectors: Tensor
    residuals: Tensor


@dataclass(frozen=True)
class Svds:
    """``left (b, m, r)``, ``values (b, r)`` and ``right (b, r, n)`` in float64, zero where a direction is cut.

    ``kept``: the directions that are not, in the host's memory, as are the ``strengths``, which are the values, and the
    ``residuals`` (b). ``noisy (b)``: how many were cut as rounding of the stored weights.
    """

    left: Tensor
    values: Tensor
    right: Tensor
    kept: Tensor
    strengths: Tensor
    noisy: Tensor
    residuals: Tensor


def eigens(matrices: Tensor) -> Eigens:
    """All eigenpairs of symmetric float64 matrices ``(b, n, n)``, the residuals still on the device. Raises Alone."""
    rows = random_rows(matrices)
    images = rows @ matrices
    try:
        values, vectors = torch.linalg.eigh(matrices)
    except RuntimeError as error:
        if trouble(error) is not Trouble.ROUTE:
            raise
        raise Alone from None
    values, vectors = values.flip(1), vectors.flip(2)
    largest = values.abs().amax(1).clamp_min(_FAINT)
    errors = torch.linalg.vector_norm(images @ vectors - (rows @ vectors) * values[:, None], dim=(1, 2))
    return Eigens(values, vectors, errors / largest / math.sqrt(_PROBES))


def random_rows(matrices: Tensor) -> Tensor:
    """Rows ``(4, m)`` whose products tell how well a decomposition fits."""
    rows = torch.randn(_PROBES, matrices.shape[1], generator=torch.Generator().manual_seed(0))
    return sent(rows.to(matrices.dtype), matrices.device)


def require_fit(residuals: Tensor, size: int) -> None:
    """Raise Alone unless rounding explains these residuals of matrices with so many rows; they are on the host."""
    bound = _MARGIN * torch.finfo(torch.float64).eps * math.sqrt(max(size, 16))
    if not bool((residuals <= bound).all()):  # a NaN fits nothing
        raise Alone


def grams(matrices: Tensor) -> Tensor:
    """``A A^T (b, m, m)`` in float64."""
    wide = matrices.double()
    return wide @ wide.mT


def svds(matrices: Tensor, count: int, noises: Noises) -> Svds:
    """The ``count`` leading singular triplets of each of ``(b, m, n)``, with one wait for the device. Raises Alone."""
    if matrices.shape[1] > matrices.shape[2]:
        flipped = svds(matrices.mT, count, noises.turned)
        return Svds(
            flipped.right.mT, flipped.values, flipped.left.mT, flipped.kept, flipped.strengths, flipped.noisy,
            flipped.residuals,
        )  # fmt: skip
    found = eigens(grams(matrices))
    left = found.vectors[:, :, :count].contiguous()
    right = left.mT @ matrices.double()
    values = torch.linalg.vector_norm(right, dim=2)
    right /= values.clamp_min(torch.finfo(right.dtype).tiny)[..., None]
    resolved = values > rounding_level(matrices[0], full=False) * values[:, :1]
    kept = resolved & (values > noises.levels(left, right))
    table = torch.cat([values, resolved.double(), kept.double(), found.residuals[:, None]], 1).cpu()
    strengths, above, whole = table[:, :count], table[:, count : 2 * count], table[:, 2 * count : -1]
    residuals = table[:, -1]
    require_fit(residuals, matrices.shape[1])
    left *= kept[:, None]
    right *= kept[..., None]
    noisy = (above.sum(1) - whole.sum(1)).int()
    return Svds(left, values * kept, right, whole > 0, strengths * whole, noisy, residuals)


def polars(rows: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
    """``U V^T`` of each of ``(b, r, n)``, ``r <= n``, in float64 and by products alone, and how far it is off.

    Rows that are zero, where ``kept (b, r)`` is 0, stay zero. How far (b), on the device: by how much the worst row of
    the factor misses length 1 and right angles to the others; see ``require_orthonormal``.
    """
    products = rows @ rows.mT
    bound = products.abs().sum(2).amax(1).sqrt().clamp_min(torch.finfo(rows.dtype).tiny)[:, None, None]
    current = rows / bound
    products /= bound.square()
    for scale in scales(LEAST[rows.dtype] / rows.shape[1] ** 0.5):
        current = torch.baddbmm(current, products, current, beta=1.5 * scale, alpha=-0.5 * scale**3)
        products = current @ current.mT
    products.diagonal(dim1=1, dim2=2).sub_(kept)
    return current, torch.linalg.vector_norm(products, dim=2).amax(1)


def require_orthonormal(off: Tensor) -> None:
    """Raise Alone where polar factors are not; ``off`` is on the host."""
    if not bool((off <= ORTHONORMAL).all()):
        raise Alone


def leading_of_each(matrices: Tensor, count: int) -> Tensor:
    """As ``leading_values`` of one matrix: the ``count`` largest singular values of each, from below, on the device."""
    wide = matrices.double()
    block = torch.randn(
        wide.shape[2], min(count + _BESIDE, *wide.shape[1:]), generator=torch.Generator().manual_seed(0)
    )
    space = sent(block.double(), wide.device).expand(len(wide), -1, -1)
    for _ in range(_ITERATIONS):
        image = wide.mT @ torch.linalg.qr(wide @ space).Q
        space = torch.linalg.qr(image).Q
    values: Tensor = torch.linalg.svdvals(image)
    return values[:, :count]
