"""A whole matrix merged and calibrated: what products and decompositions take as parts of a unit.

Timed by themselves, again and again on the same matrices, they are 10 to 25 % faster: units also cast, copy, and find
their inputs in no cache.
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace

import torch

from svc_dist.forecast.rates import Speed
from svc_dist.methods.apply import ResultParameters, merged_chunks
from svc_dist.methods.costs import Work
from svc_dist.methods.deltas import TaskDeltas
from svc_dist.methods.registry import CALIBRATIONS, METHODS

_SHAPE, _EXPERTS = (2816, 1024), 3
_METHOD, _CALIBRATION = "task_arithmetic", "svc"
_PRECISION = "mixed"


class TrialMatrix:
    """A base's matrix and those of its experts in bfloat16. ``work``: what merging them is counted as."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        base = torch.randn(_SHAPE, generator=generator).mul_(0.02)
        experts = [base + torch.randn(_SHAPE, generator=generator).mul_(0.002) for _ in range(_EXPERTS)]
        self._base, self._experts = base.bfloat16(), [expert.bfloat16() for expert in experts]
        size = (*_SHAPE, _EXPERTS, _PRECISION)
        self.work: Work = METHODS[_METHOD].work(*size) + CALIBRATIONS[_CALIBRATION].work(*size)

    def merge(self) -> None:
        """Merge and calibrate it, as a unit does."""
        deltas = TaskDeltas(self._experts, self._base, precision=_PRECISION)
        parameters = METHODS[_METHOD].complete(_EXPERTS, {})
        del parameters["lambda"]
        calibration = CALIBRATIONS[_CALIBRATION].complete({}, _EXPERTS)
        deque(merged_chunks(deltas, _METHOD, [ResultParameters(parameters, calibration)], (1, *_SHAPE)), maxlen=0)


def as_in_units(speed: Speed, work: Work, seconds: float) -> Speed:
    """The speed with products and decompositions so slow, or fast, that ``work`` takes as many seconds as measured."""
    share = speed.seconds(work) / seconds
    eigen = tuple((size, known / share) for size, known in speed.eigen)
    return replace(speed, float64=speed.float64 * share, float32=speed.float32 * share, eigen=eigen)
