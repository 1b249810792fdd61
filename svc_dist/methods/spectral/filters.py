"""Which directions of C SWUDI keeps, and how far each is moved."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from svc_dist.methods.merged import numbers
from svc_dist.methods.spectral.rank_rules import rank

FLOOR = 1e-8  # smallest eigenvalue of C that is divided by


@dataclass(frozen=True)
class Spectrum:
    """The ``n`` eigenvalues of C, descending and clamped at 1e-8, of which ``resolved`` are above rounding level.

    ``shape (K m, n)``: of the stacked, normalised deltas, whose squared singular values they are.
    """

    values: Tensor
    resolved: int
    shape: tuple[int, int]


@dataclass(frozen=True)
class Filter:
    """Which directions are kept (``rank``; ``known`` where it needs no spectrum) and how far each goes (``strengths``).

    ``strengths``: one for each result that is wanted. ``resolved``: only directions above rounding level are kept.
    """

    rank: Callable[[Spectrum], int]
    strengths: Sequence[Callable[[Tensor], Tensor]]
    known: int | None
    resolved: bool

    def cut(self, spectrum: Spectrum) -> tuple[int, int]:
        """How many directions are kept, and how many more would have been but for rounding."""
        wanted = self.rank(spectrum)
        kept = min(wanted, spectrum.resolved) if self.resolved else wanted
        return kept, wanted - kept


def swudi_filter(columns: int, exp_times: Sequence[float], rank_ratio: float) -> Filter:
    """The first ``rank_ratio`` of the directions, each as far as the gradient flow gets in each of the times."""
    top = min(columns, max(1, math.ceil(rank_ratio * columns - 1e-9 * columns)))  # 0.55 * 100 is above 55 in float64
    strengths = [functools.partial(_flowed, exp_time) for exp_time in exp_times]
    return Filter(lambda _: top, strengths, top, resolved=False)


def swudi_a_filter(rank_rule: str) -> Filter:
    """As many directions as the rule finds, each to the minimum."""
    return Filter(
        lambda spectrum: rank(rank_rule, spectrum.values, spectrum.shape), [torch.ones_like], None, resolved=True
    )


def _flowed(exp_time: float, lam: Tensor) -> Tensor:
    return -torch.expm1(-lam * exp_time)


def above_rounding(values: Tensor, columns: int, dtype: torch.dtype) -> int:
    """How many eigenvalues of C exceed ``n * eps * lam_0``, with the eps of the arithmetic that C was summed in."""
    return max(1, int((values > columns * torch.finfo(dtype).eps * values[0].double()).sum()))


def spectrum_summary(top: int, cut: int, lam: Tensor, residual: float) -> dict[str, object]:
    """For a receipt: ``singular_values`` are those of the stacked, normalised deltas, the roots of C's eigenvalues."""
    return {
        "kept_rank": top,
        "cut": cut,
        "residual": residual,
        "singular_values": numbers(lam.clamp_min(0).sqrt()),
    }
