"""What calibration did to merged deltas: how much they grew or shrank, and by how much they changed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

_HARDLY = 0.05  # a change, relative to the delta, below which nothing is to be seen of it


class Kind(StrEnum):
    """What became of the deltas' size."""

    SHRUNK = "shrunk"
    LIFTED = "lifted"
    HARDLY_TOUCHED = "hardly touched"


@dataclass(frozen=True)
class Effect:
    """``growth``: the norm of the calibrated deltas over that of the merged ones; ``change``: the norm of their
    difference, relative to the merged ones. ``exact``: over all directions, not only the leading ones."""

    growth: float
    change: float
    exact: bool = True

    @classmethod
    def of(cls, summaries: Iterable[Mapping[str, Any]]) -> Effect | None:
        """The effect on these matrices together; None where none of them was calibrated or all deltas are zero."""
        norms = [_norms(summary) for summary in summaries if {"gamma", "norm_merged"} & summary.keys()]
        before, after, change = (math.hypot(*(one[part] for one in norms)) for part in range(3))
        if not before:
            return None
        return cls(after / before, change / before, all(one[3] for one in norms))

    @property
    def kind(self) -> Kind:
        if self.change < _HARDLY:
            return Kind.HARDLY_TOUCHED
        return Kind.LIFTED if self.growth > 1 else Kind.SHRUNK

    def sentence(self, subject: str, did: Mapping[Kind, str]) -> str:
        """In words. ``subject``: what calibrates; ``did``: its verb for each kind."""
        if self.kind is Kind.HARDLY_TOUCHED:
            return f"{subject} {did[self.kind]} the deltas: a change of {_percent(self.change)}."
        return (
            f"{subject} {did[self.kind]} the deltas to {self.growth:.2f} times their size, a change of "
            f"{_percent(self.change)}."
        )


def _norms(summary: Mapping[str, Any]) -> tuple[float, float, float, bool]:
    """Norms before and after calibration and of the difference. Reports of earlier releases hold the leading
    directions only."""
    if "norm_merged" in summary:
        return *(float(summary[f"norm_{part}"]) for part in ("merged", "calibrated", "changed")), True  # type: ignore[return-value]
    pairs = list(zip(summary["sigma"], summary["gamma"], strict=False))
    return (
        math.hypot(*(sigma for sigma, _ in pairs)),
        math.hypot(*(gamma * sigma for sigma, gamma in pairs)),
        math.hypot(*((gamma - 1) * sigma for sigma, gamma in pairs)),
        False,
    )


def _percent(share: float) -> str:
    return f"{share:.0%}" if share >= 0.01 or not share else "less than 1%"
