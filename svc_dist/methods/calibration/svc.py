"""SVC, Singular Value Calibration: directions that several experts share are counted once again, not K times.

Li et al. 2026, arXiv 2602.05536, Algorithm 1.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor

from svc_dist.linalg.devices.grain import lines
from svc_dist.linalg.eigen import symmetric_eigen
from svc_dist.linalg.finite import require_finite
from svc_dist.linalg.gram import gram, product
from svc_dist.methods.deltas import Deltas
from svc_dist.methods.merged import Merged, numbers

_ROWS = 512  # directions projected, or entries of the result made, at once: bounds temporaries
MIN_NORM2 = 1e-12  #: the paper's guard for an expert that does not reach into a direction


@dataclass(frozen=True)
class Calibrated:
    """A calibrated delta ``(m, n)`` and, per direction r in descending order of sigma, what happened to it.

    ``sigma (r)``: singular values before; ``gamma (r)``: their factors; ``ratios (K, r)``: ``s_r^i``, how many times
    the merged response holds what expert i alone says in direction r; ``alpha``: the floor they were held to;
    ``residual``: how well the directions fit M, relative to it (0 where the method gave them). Directions at rounding
    level have a sigma of 0 and a gamma of 1: they are left as they are. ``here``: sigma, gamma and the ratios, row by
    row, in the host's memory.
    """

    delta: Tensor
    sigma: Tensor
    gamma: Tensor
    ratios: Tensor
    alpha: float
    residual: float
    here: Tensor | None = None

    def __repr__(self) -> str:
        return f"<Calibrated delta {[*self.delta.shape]}: gamma {self.gamma.min():.3f} to {self.gamma.max():.3f}>"

    @property
    def inflation(self) -> Tensor:
        """The mean of ``s_r^i`` over the experts."""
        return self.ratios.mean(0)

    @cached_property
    def summary(self) -> dict[str, Any]:
        """Plain numbers for a receipt. Those of all directions together leave out what is at rounding level."""
        table = self.here
        if table is None:
            table = torch.cat([self.sigma[None], self.gamma[None], self.ratios]).cpu()
        sigma, gamma, ratios = table[0], table[1], table[2:]
        energy = (sigma / sigma.max().clamp_min(torch.finfo(sigma.dtype).tiny)).square()
        energy /= energy.sum().clamp_min(torch.finfo(energy.dtype).tiny)
        resolved = sigma > 0
        above = ratios[:, resolved]
        return {
            "sigma": numbers(sigma),
            "sigma_calibrated": numbers(gamma * sigma),
            "gamma": numbers(gamma),
            **_spread("gamma", gamma[resolved]),
            "gamma_by_energy": float(gamma @ energy),
            "norm_merged": float(sigma.norm()),
            "norm_calibrated": float((gamma * sigma).norm()),
            "norm_changed": float(((gamma - 1) * sigma).norm()),
            "inflation": numbers(ratios.mean(0)),
            "inflation_by_expert": numbers(ratios @ energy, len(ratios)),
            **_spread("ratio", above),
            "at_floor": float((above <= self.alpha).double().sum()) / max(above.numel(), 1),
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
    smaller Gram matrix gives U (or V, and U from it), and the result is ``U (gamma * A)`` with ``A = U^T M``. U and A
    are float64 at every precision: along a weak direction ``u_r^T M`` is a small difference of large numbers, which
    float32 would lose. What the experts say, ``u_r^T Di``, is compared with it in the dtype of the deltas.

    The deltas are taken one at a time. ``alpha``: 1 only suppresses; each value yields one result, all from one
    decomposition. ``side``: ``left`` compares in the column space, ``right`` in the row space. Directions that the
    method itself built take the place of singular vectors that ``merged`` would tell less exactly, or not at all where
    its spectrum is flat. Raises NumericsError when an input is not finite.
    """
    count, length, basis = len(deltas), max(deltas.shape), merged.basis(side)
    if side == "left":
        yield from _calibrated(merged.delta, deltas, count, alpha, basis, length, merged.finite)
        return
    transposed = (delta.T for delta in deltas)
    for result in _calibrated(merged.delta.T, transposed, count, alpha, basis, length, merged.finite):
        yield dataclasses.replace(result, delta=result.delta.T)
        del result  # before the next one is made


def _calibrated(
    merged: Tensor,
    deltas: Iterable[Tensor],
    count: int,
    alphas: Sequence[float],
    basis: Tensor | None,
    length: int,
    finite: bool,
) -> Iterator[Calibrated]:
    """The result in the column space for each alpha, in the dtype of the deltas. ``finite``: M is known to be."""
    tall = basis is None and merged.shape[0] > merged.shape[1]
    directions: _Directions = _FromRight(merged, length, finite) if tall else _FromLeft(merged, basis, length, finite)
    sigma, left = directions.sigma, None
    shares = []
    for delta in deltas:
        if left is None:
            left = directions.left(delta.dtype)
        share = torch.empty_like(sigma)
        step = lines(delta.device, _ROWS, delta.shape[1])
        for start in range(0, len(sigma), step):
            rows = slice(start, start + step)
            own = (left[:, rows].T @ delta).double()
            share[rows] = (directions.responses(rows) * own).sum(1) / own.square().sum(1).clamp_min(MIN_NORM2)
        shares.append(share)
        dtype = delta.dtype
        del delta, own  # before the next one is made
    del left
    ratios = torch.stack(shares)
    order = sigma.argsort(descending=True, stable=True)  # directions of a flat spectrum come in any
    for alpha in alphas:
        gamma = torch.where(sigma > 0, count / ratios.clamp_min(alpha).sum(0), 1)
        table = torch.cat([sigma[None], gamma[None], ratios])[:, order]
        here = table.cpu()  # one wait for a device
        require_finite(here[1], "the calibration factors")
        delta = directions.expanded(gamma, dtype)
        yield Calibrated(delta, table[0], table[1], table[2:], alpha, directions.residual, here)
        del delta


class _Directions(Protocol):
    """The directions that M is calibrated along, and M in terms of them, in float64.

    ``sigma (r)``: the norms of the rows of ``A = U^T M``, zero at rounding level; ``residual``: how well U fits M.
    """

    sigma: Tensor
    residual: float

    def left(self, dtype: torch.dtype) -> Tensor:
        """``U (m, r)`` as ``dtype``."""

    def responses(self, rows: slice) -> Tensor:
        """Rows of A."""

    def expanded(self, gamma: Tensor, dtype: torch.dtype) -> Tensor:
        """``U diag(gamma) A`` as ``dtype``."""


class _FromLeft:
    """Through the eigenvectors of ``M M^T``, or through directions that the method itself built."""

    def __init__(self, merged: Tensor, basis: Tensor | None, length: int, finite: bool) -> None:
        self.residual = 0.0
        if basis is None:
            basis, self.residual = symmetric_eigen(gram(merged), "M M^T", overwrite=True, finite=finite)[1:]
        self._basis, self._left = basis, basis.double()
        self._responses = product(self._left.T, merged)
        sigma = torch.linalg.vector_norm(self._responses, dim=1)
        self.sigma = torch.where(_resolved(sigma, length, merged.dtype), sigma, 0)

    def left(self, dtype: torch.dtype) -> Tensor:
        return self._basis.to(dtype)

    def responses(self, rows: slice) -> Tensor:
        return self._responses[rows]

    def expanded(self, gamma: Tensor, dtype: torch.dtype) -> Tensor:
        result = self._responses.new_empty(len(self._left), self._responses.shape[1], dtype=dtype)
        step = lines(result.device, _ROWS, len(result))
        for start in range(0, result.shape[1], step):
            columns = slice(start, start + step)
            result[:, columns] = self._left @ (self._responses[:, columns] * gamma[:, None])
        return result


class _FromRight:
    """Through the eigenvectors of ``M^T M``, for a tall matrix. Its left vectors are ``M V`` divided by sigma."""

    def __init__(self, merged: Tensor, length: int, finite: bool) -> None:
        _, self._right, self.residual = symmetric_eigen(gram(merged.T), "M^T M", overwrite=True, finite=finite)
        self._scaled = product(self._right.T, merged.T)  # diag(sigma) U^T
        sigma = torch.linalg.vector_norm(self._scaled, dim=1)
        self.sigma = torch.where(_resolved(sigma, length, merged.dtype), sigma, 0)

    def left(self, dtype: torch.dtype) -> Tensor:
        """Directions at rounding level have no left vector to speak of: zero."""
        rows = self._scaled.new_empty(self._scaled.shape, dtype=dtype)
        step = lines(rows.device, _ROWS, rows.shape[1])
        for start in range(0, len(rows), step):
            part = slice(start, start + step)
            sigma = self.sigma[part, None]
            rows[part] = torch.where(sigma > 0, self._scaled[part] / sigma, 0)
        return rows.T

    def responses(self, rows: slice) -> Tensor:
        return self.sigma[rows, None] * self._right[:, rows].T

    def expanded(self, gamma: Tensor, dtype: torch.dtype) -> Tensor:
        result = self._scaled.new_empty(self._scaled.shape[1], len(self._right), dtype=dtype)
        step = lines(result.device, _ROWS, result.shape[1])
        for start in range(0, len(result), step):
            rows = slice(start, start + step)
            result[rows] = (self._scaled[:, rows] * gamma[:, None]).T @ self._right.T
        return result


def _resolved(sigma: Tensor, length: int, dtype: torch.dtype) -> Tensor:
    """Which singular values, of a matrix of ``dtype`` whose longer side has that ``length``, are above rounding level.

    The others are left as they are: what is compared there is rounding, and ``alpha`` may be any floor.
    """
    return sigma > resolved_level(length, dtype) * sigma.max() if len(sigma) else sigma > 0


def resolved_level(length: int, dtype: torch.dtype) -> float:
    """The share of the largest singular value at which rounding lies."""
    return max(math.sqrt(length) * torch.finfo(dtype).eps, length * torch.finfo(torch.float64).eps)
