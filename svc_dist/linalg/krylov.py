"""The leading eigenpairs of a large symmetric matrix, by a block Krylov method with full reorthogonalisation."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from svc_dist.linalg.devices.grain import on_the_cpu

BLOCK = 32  # vectors multiplied at once: a product with fewer takes nearly as long
_SEED = 2606_07289
_RESTARTS = 6
_LEAST = 1024  # smaller matrices are decomposed in full before many small steps are made
_LEAST_ON_DEVICE = 4096


def leading_eigenpairs(
    apply: Callable[[Tensor], Tensor],
    size: int,
    count: int,
    *,
    tolerance: float = 1e-12,
    device: str | torch.device = "cpu",
) -> tuple[Tensor, Tensor] | None:
    """The ``count`` largest eigenvalues (descending) and eigenvectors ``(n, count)`` of a symmetric operator.

    ``apply``: ``X (b, n) -> X A`` in float64, ``A (n, n)`` positive semidefinite; vectors are rows, which products with
    few of them prefer. Rayleigh-Ritz on the block Krylov space of a fixed random start, orthogonalised in full and
    restarted with its best directions (thick restart; Wu & Simon 2000, SIAM J. Matrix Anal. Appl. 22). Every residual
    ``||A v - lam v||`` is at most ``tolerance * lam_0``; None where that is not reached for less work than a full
    decomposition, which the caller then makes.
    """
    width = _basis_width(count)
    basis = torch.empty(width + BLOCK, size, dtype=torch.float64, device=device)  # Q, by rows
    projected = torch.zeros(width, width, dtype=torch.float64, device=device)  # Q A Q^T
    basis[:BLOCK] = _orthonormal(_start(size).to(device), basis[:0])[0]
    known = 0  # rows of the basis that A has been applied to
    for _ in range(_RESTARTS):
        while known < width:
            image = apply(basis[known : known + BLOCK])
            done = basis[: known + BLOCK]
            coefficients = image @ done.T
            projected[known : known + BLOCK, : known + BLOCK] = coefficients
            projected[: known + BLOCK, known : known + BLOCK] = coefficients.T
            known += BLOCK
            basis[known : known + BLOCK], coupling = _orthonormal(image - coefficients @ done, done)
        if not bool(torch.isfinite(projected).all()):
            return None
        values, rotation = torch.linalg.eigh(projected)
        residuals = torch.linalg.vector_norm(coupling @ rotation[-BLOCK:, -count:], dim=0)
        if bool((residuals <= tolerance * values[-1]).all()):
            return values[-count:].flip(0), (rotation[:, -count:].T @ basis[:width]).flip(0).T
        # Go on from the best directions, some more than asked for: they carry the convergence of the last ones.
        known = min(width - 2 * BLOCK, (count + (width - count) // 3) // BLOCK * BLOCK)
        basis[:known] = rotation[:, -known:].T @ basis[:width]
        basis[known : known + BLOCK] = basis[width : width + BLOCK].clone()
        projected.zero_()
        projected.diagonal()[:known] = values[-known:]
    return None


def krylov_pays(size: int, count: int, device: str | torch.device = "cpu") -> bool:
    """Whether so few of ``size`` directions are wanted that a Krylov space costs clearly less than all of them.

    A device decomposes a small matrix in the time of the many small steps that a Krylov space takes.
    """
    return size >= (_LEAST if on_the_cpu(device) else _LEAST_ON_DEVICE) and 3 * _basis_width(count) <= size


def _basis_width(count: int) -> int:
    return (3 * count + 3 * BLOCK) // BLOCK * BLOCK


def _orthonormal(block: Tensor, against: Tensor) -> tuple[Tensor, Tensor]:
    """Orthonormal rows that span those of ``block (b, n)`` and are orthogonal to ``against``; and the block's factor.

    Twice is enough, normalised in between: what is left of an exhausted space is rounding noise, and becomes
    directions as good as any.
    """
    first, factor = torch.linalg.qr(block.T)
    rest = first.T - (first.T @ against.T) @ against
    second, correction = torch.linalg.qr(rest.T)
    return second.T, correction @ factor


def _start(size: int) -> Tensor:
    generator = torch.Generator().manual_seed(_SEED)
    return torch.randn(BLOCK, size, dtype=torch.float64, generator=generator)
