"""How many directions of a spectrum are worth keeping: the rank rules of SWUDI-A."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import torch
from torch import Tensor

Rule = Callable[[Tensor], float]


def rank(rule: str, spectrum: Tensor, shape: tuple[int, int]) -> int:
    """The rank that ``rule`` gives to eigenvalues ``spectrum (n)``, positive and descending; within ``[1, n]``.

    ``shape (K m, n)``: of the matrix whose squared singular values these are.
    """
    values = spectrum.double()
    if rule.startswith("cumvar_"):
        count = _cumulative(values, float(rule.removeprefix("cumvar_")))
    elif rule == "gavish_donoho":
        count = _gavish_donoho(values[: min(shape)], min(shape) / max(shape))
    else:
        count = RULES[rule](values)
    return min(max(1, math.ceil(count)), values.numel())


def _participation(values: Tensor) -> float:
    """``(sum lam)^2 / sum lam^2``: how many equal eigenvalues would spread as these do."""
    return float(values.sum().square() / values.square().sum())


def _participation_sqrt(values: Tensor) -> float:
    """The same of the singular values ``sqrt(lam)``."""
    return _participation(values.sqrt())


def _entropy(values: Tensor) -> float:
    """``exp(H(lam / sum lam))``: the effective rank of Roy & Vetterli 2007."""
    share = values / values.sum()
    return float(torch.special.entr(share).sum().exp())


def _stable_rank(values: Tensor) -> float:
    """``sum lam^2 / lam_0^2``."""
    return float(values.square().sum() / values[0].square())


def _cumulative(values: Tensor, share: float) -> float:
    """The fewest leading eigenvalues that hold ``share`` of the sum."""
    sums = values.cpu().cumsum(0)  # on a GPU the order of additions, and so the rank, may change between runs
    return float((sums < share * sums[-1]).sum()) + 1


def _gavish_donoho(values: Tensor, aspect: float) -> float:
    """How many singular values exceed the optimal hard threshold for unknown noise, ``omega(beta) * median(y)``.

    ``aspect``: beta, the shorter side over the longer one; ``values``: as many as the shorter side is long. Gavish &
    Donoho 2014, IEEE Trans. Inf. Theory 60, equations 4 and 11: ``omega(beta) = lam(beta) / sqrt(mu)``, ``mu`` the
    median of the Marchenko-Pastur distribution.
    """
    singular = values.sqrt()
    best = math.sqrt(2 * (aspect + 1) + 8 * aspect / (aspect + 1 + math.sqrt(aspect**2 + 14 * aspect + 1)))
    threshold = best / math.sqrt(marchenko_pastur_median(aspect)) * float(singular.quantile(0.5))
    return float((singular > threshold).sum())


@functools.cache
def marchenko_pastur_median(aspect: float) -> float:
    """The median of the Marchenko-Pastur distribution with ratio ``aspect`` in (0, 1] and unit noise.

    Bisection on the distribution function, whose integral is smooth after ``x = mid + half * sin(angle)``.
    """
    low, high = (1 - math.sqrt(aspect)) ** 2, (1 + math.sqrt(aspect)) ** 2
    middle, half = (low + high) / 2, (high - low) / 2

    def share_below(angle: float) -> float:
        angles = torch.linspace(-math.pi / 2, angle, 2001, dtype=torch.float64)
        points = middle + half * angles.sin()
        ratio = torch.where(points > 0, (points - low) / points, 1.0)  # 0/0 at the edge of a square matrix' spectrum
        return float(torch.trapezoid(ratio * (high - points) / (2 * math.pi * aspect), angles))

    start, end = -math.pi / 2, math.pi / 2
    for _ in range(60):
        angle = (start + end) / 2
        start, end = (angle, end) if share_below(angle) < 0.5 else (start, angle)
    return middle + half * math.sin((start + end) / 2)


RULES: dict[str, Rule] = {
    "participation_sqrt": _participation_sqrt,
    "participation": _participation,
    "entropy": _entropy,
    "stable_rank": _stable_rank,
}
