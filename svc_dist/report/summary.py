"""A merge or an inspection in a few figures: what stands first on its page, and what two merges are compared by."""

from __future__ import annotations

import math
from dataclasses import dataclass

from svc_dist.report.diagnosis import Diagnosis
from svc_dist.report.effect import Effect
from svc_dist.sizes import counted

INFLATED = 1.5  # times counted, from which on a matrix is named as inflated


@dataclass(frozen=True)
class Summary:
    """``times``: that the plain sum counts what experts learnt, NaN if unknown; ``inflated`` of ``matrices`` are
    counted more than ``INFLATED`` times; ``merged_times``: that the merge counted it before calibration, NaN if
    unknown; ``of_seconds``: what took the ``seconds``; ``merged``: not only inspected."""

    times: float
    inflated: int
    matrices: int
    merged_times: float
    effect: Effect | None
    seconds: float
    of_seconds: str
    merged: bool

    @classmethod
    def of(cls, diagnosis: Diagnosis) -> Summary:
        report, gamma, times = diagnosis.report, diagnosis.gamma(), diagnosis.times.values()
        seconds, of_seconds = _duration(diagnosis)
        return cls(
            diagnosis.times_counted(), sum(value > INFLATED for value in times), len(times),
            1 / gamma if gamma > 0 else math.nan, Effect.of(matrix.summary for matrix in diagnosis.matrices),
            seconds, of_seconds, bool(report.ranges),
        )  # fmt: skip

    @property
    def share_inflated(self) -> float:
        """The share of the matrices that are inflated; NaN where none was compared."""
        return self.inflated / self.matrices if self.matrices else math.nan


def _duration(diagnosis: Diagnosis) -> tuple[float, str]:
    """Seconds, and of what."""
    report = diagnosis.report
    if not report.last_start:
        return sum(report.unit_seconds.values()), "of all units together"
    last, nodes = report.last_start, len(report.hosts)
    units, resumed = int(last.get("units", 0)), int(last.get("units_resumed", 0))
    what = f"the last start: {units} of {counted(units + resumed, 'unit')}" if resumed else counted(units, "unit")
    return float(last["seconds"]), f"{what}, {counted(nodes, 'host')}"


def minutes(seconds: float) -> str:
    """Minutes, in as many digits as one reads."""
    value = seconds / 60
    return f"{value:.0f}" if value >= 10 else f"{value:.1f}" if value >= 1 else f"{value:.2f}"


def figure(value: float) -> str:
    """A number with two decimals; a dash for none."""
    return "–" if math.isnan(value) else f"{value:.2f}"


def percent(value: float) -> str:
    """A share in percent; a dash for none."""
    return "–" if math.isnan(value) else f"{value:.0%}" if value >= 0.01 or not value else "<1%"
