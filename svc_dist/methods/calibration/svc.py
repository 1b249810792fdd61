"""SVC, Singular Value Calibration: directions that several experts share are counted once again, not K times.

Li et al. 2026, arXiv 2602.05536, Algorithm 1.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from svc_dist.linalg.eigen import symmetric_eigen
from svc_dist.linalg.finite import require_finite
from svc_dist.linalg.gram import gram
from svc_dist.linalg.precision import coefficient_dtype
from svc_dist.methods.calibration.policy import rounds_coefficients
from svc_dist.methods.deltas import Deltas
from svc_dist.methods.merged import Merged, numbers

_ROWS = 512  # directions projected at once: bounds the temporary A_i
_EXACT = 64  # leading directions that are never rounded to bfloat16
_MIN_NORM2 = 1e-12  # the paper's guard for an expert that does not reach into a direction


@dataclass(frozen=True)
class Calibrated:
    """A calibrated delta ``(m, n)`` and, per direction r in descending order of sigma, what happened to it.

    ``sigma (r)``: singular values before; ``gamma (r)``: their factors; ``ratios (K, r)``: ``s_r^i``, how many times
    the merged response holds what expert i alone says in direction r; ``alpha``: the floor they were held to;
    ``residual``: how well the directions fit M, relative to it (0 where the method gave them); ``length``: the longer
    side of the matrix, which ``delta`` may be the core of.
    """

    delta: Tensor
    sigma: Tensor
    gamma: Tensor
    ratios: Tensor
    alpha: float
    residual: float
    length: int

    @property
    def inflation(self) -> Tensor:
        """The mean of ``s_r^i`` over the experts."""
        return self.ratios.mean(0)

    @cached_property
    def summary(self) -> dict[str, Any]:
        """Plain numbers for a receipt. Those of all directions together leave out what is at rounding level."""
        energy = (self.sigma / self.sigma.max().clamp_min(torch.finfo(self.sigma.dtype).tiny)).square()
        energy /= energy.sum().clamp_min(torch.finfo(energy.dtype).tiny)
        resolved = _resolved(self.sigma, self.length)
        ratios = self.ratios[:, resolved]
        return {
            "sigma": numbers(self.sigma),
            "sigma_calibrated": numbers(self.gamma * self.sigma),
            "gamma": numbers(self.gamma),
            **_spread("gamma", self.gamma[resolved]),
            "gamma_by_energy": float(self.gamma @ energy),
            "inflation": numbers(self.inflation),
            "inflation_by_expert": numbers(self.ratios @ energy, len(self.ratios)),
            **_spread("ratio", ratios),
            "at_floor": float((ratios <= self.alpha).double().sum()) / max(ratios.numel(), 1),
            "calibrated_rank": int(resolved.sum()),
            "calibration_residual": self.residual,
        }


def _spread(name: str, values: Tensor) -> dict[str, float]:
    if values.numel() == 0:
        return {}
    return {
        f"{name}_min": float(values.min()),
        f"{name}_median": float(values.median()),
        f"{name}_max": float(values.max()),
    }


def svc(merged: Merged, deltas: Deltas, *, alpha: Sequence[float], side: str) -> Iterator[Calibrated]:
    """Calibrate the spectrum of a merged delta ``(m, n)`` against the K task deltas it was made from.

    ``gamma_r = K / sum_i max(alpha, <a_r, a_r^i> / ||a_r^i||^2)`` with the responses ``a_r = u_r^T M`` and
    ``a_r^i = u_r^T Di``; the result is ``U diag(gamma * sigma) V^T``. No SVD is made: one eigendecomposition of the
    smaller Gram matrix gives U (or V, and U from it), and the result is ``U (gamma * U^T M)``.

    The deltas are taken one at a time. ``alpha``: 1 only suppresses; each value yields one result, all from one
    decomposition. ``side``: ``left`` compares in the column space, ``right`` in the row space. Directions that the
    method itself built take the place of singular vectors that ``merged`` would tell less exactly, or not at all where
    its spectrum is flat. Raises NumericsError when an input is not finite.
    """
    dtype = coefficient_dtype(deltas.precision, merged.delta.device.type)
    count, length, basis = len(deltas), max(deltas.shape), merged.basis(side)
    if side == "left":
        yield from _calibrated(merged.delta, deltas, count, alpha, basis, length, dtype)
        return
    transposed = (delta.T for delta in deltas)
    for result in _calibrated(merged.delta.T, transposed, count, alpha, basis, length, dtype):
        yield dataclasses.replace(result, delta=result.delta.T)
        del result  # before the next one is made


def _calibrated(
    merged: Tensor,
    deltas: Iterable[Tensor],
    count: int,
    alphas: Sequence[float],
    basis: Tensor | None,
    length: int,
    dtype: torch.dtype,
) -> Iterator[Calibrated]:
    """The result in the column space for each alpha. ``dtype``: of the products that only yield coefficients."""
    directions = _directions(merged, basis)
    sigma, responses, expand = directions.sigma, directions.responses, directions.expand
    residual = directions.residual
    project = _projection(directions.left, dtype)
    del directions
    shares = []
    for delta in deltas:
        share = torch.empty_like(sigma)
        for rows, response in project(delta):
            share[rows] = (responses(rows) * response).sum(1) / response.square().sum(1).clamp_min(_MIN_NORM2)
        shares.append(share)
        del delta  # before the next one is made
    del project, responses
    ratios = torch.stack(shares)
    order = sigma.argsort(descending=True, stable=True)  # directions of a flat spectrum come in any
    for number, alpha in enumerate(alphas):
        gamma = torch.where(sigma > 0, count / ratios.clamp_min(alpha).sum(0), 1)
        require_finite(gamma, "the calibration factors")
        last = number == len(alphas) - 1
        yield Calibrated(expand(gamma, last), sigma[order], gamma[order], ratios[:, order], alpha, residual, length)


def _projection(left: Tensor, dtype: torch.dtype) -> Callable[[Tensor], Iterator[tuple[slice, Tensor]]]:
    """``Di -> U^T Di`` in blocks of rows, as pairs of their place and the block.

    In bfloat16, the strongest directions are projected exactly and taken out of Di first: what they hold would else
    be rounded, and the rounding would show in all the weak ones.
    """
    rank = left.shape[1]
    if dtype == left.dtype or not rounds_coefficients(rank):
        return lambda delta: (
            (slice(start, start + _ROWS), left[:, start : start + _ROWS].T @ delta) for start in range(0, rank, _ROWS)
        )
    strong, weak, full = left[:, :_EXACT].clone(), left.to(dtype), left.dtype

    def project(delta: Tensor) -> Iterator[tuple[slice, Tensor]]:
        head = strong.T @ delta
        yield slice(0, _EXACT), head
        rest = torch.empty_like(delta, dtype=dtype)
        for start in range(0, len(delta), _ROWS):
            rows = slice(start, start + _ROWS)
            rest[rows] = torch.addmm(delta[rows], strong[rows], head, alpha=-1)
        for start in range(_EXACT, rank, _ROWS):
            rows = slice(start, start + _ROWS)
            yield rows, (weak[:, rows].T @ rest).to(full)

    return project


@dataclass(frozen=True)
class _Directions:
    """The directions that M is calibrated along, and M in terms of them.

    ``left (m, r)``: U; ``responses``: the rows of ``A = U^T M`` on demand; ``sigma (r)``: their norms; ``expand``:
    ``gamma -> U diag(gamma) A``, the last time (True) in the memory of A; ``residual``: how well U fits M.
    """

    left: Tensor
    responses: Callable[[slice], Tensor]
    sigma: Tensor
    expand: Callable[[Tensor, bool], Tensor]
    residual: float


def _directions(merged: Tensor, basis: Tensor | None) -> _Directions:
    if basis is None and merged.shape[0] > merged.shape[1]:
        return _from_right(merged)
    residual = 0.0
    if basis is None:
        basis, residual = symmetric_eigen(gram(merged), "M M^T", dtype=merged.dtype, overwrite=True)[1:]
    left = basis.to(merged.dtype)
    response = left.T @ merged
    sigma = torch.linalg.vector_norm(response, dim=1)

    def expand(gamma: Tensor, last: bool) -> Tensor:
        return left @ (response.mul_(gamma[:, None]) if last else response * gamma[:, None])

    return _Directions(left, lambda part: response[part], sigma, expand, residual)


def _from_right(merged: Tensor) -> _Directions:
    """Through the right singular vectors of a tall matrix."""
    _, right, residual = symmetric_eigen(gram(merged.T), "M^T M", dtype=merged.dtype, overwrite=True)
    scaled = merged @ right  # U diag(sigma)
    sigma = torch.linalg.vector_norm(scaled, dim=0)
    # Directions at rounding level have no left vector to speak of: they are left alone.
    sigma = torch.where(_resolved(sigma, merged.shape[0]), sigma, 0)
    return _Directions(
        torch.where(sigma > 0, scaled / sigma, 0),
        lambda part: sigma[part, None] * right[:, part].T,
        sigma,
        lambda gamma, last: (scaled.mul_(gamma) if last else scaled * gamma) @ right.T,
        residual,
    )


def _resolved(sigma: Tensor, length: int) -> Tensor:
    """Which singular values, of vectors of that ``length``, are above rounding level."""
    return sigma > math.sqrt(length) * torch.finfo(sigma.dtype).eps * sigma.max()
