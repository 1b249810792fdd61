"""The weights of a training run's checkpoints in their mean.

A mean of checkpoints is what a decay of the learning rate would have made: with updates ``g_i`` between checkpoints,
``sum_j c_j theta_j = theta_0 - sum_i w_i g_i`` where ``w_i = c_i + ... + c_k``. So a decay ``1 >= w_1 >= ... >= w_k``
has the weights ``c_0 = 1 - w_1``, ``c_j = w_j - w_(j+1)``, ``c_k = w_k`` (Tian et al. 2025, arXiv 2507.17634,
Theorem 3.1). ``w_i`` is the decay where checkpoint i lies in the window, which ends one interval after the last one.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Literal

Schedule = Literal["wsm", "inverse_sqrt", "ema", "window"]
Decay = Literal["sqrt", "linear", "cosine"]

#: The learning rate at ``x`` of the decay, from 1 at 0 to 0 at 1.
_DECAYS: dict[Decay, Callable[[float], float]] = {
    "sqrt": lambda x: 1 - math.sqrt(x),
    "linear": lambda x: 1 - x,
    "cosine": lambda x: (1 + math.cos(math.pi * x)) / 2,
}


def schedule_weights(schedule: Schedule, steps: Sequence[int], decay: Decay, beta: float) -> list[float]:
    """The weights of checkpoints at rising ``steps``; they add up to 1.

    ``window``: equal ones. ``wsm``: those of a ``decay``; ``inverse_sqrt`` is ``wsm`` with ``sqrt``. ``ema``: of a
    moving average that keeps ``beta`` of itself at each checkpoint, and starts as the first one.
    """
    last = len(steps) - 1
    if schedule == "window" or last == 0:
        return [1 / len(steps)] * len(steps)
    if schedule == "ema":
        return [beta**last, *((1 - beta) * beta ** (last - number) for number in range(1, last + 1))]
    length = (steps[-1] - steps[0]) * (last + 1) / last
    shape = _DECAYS["sqrt" if schedule == "inverse_sqrt" else decay]
    rates = [1.0, *(shape((step - steps[0]) / length) for step in steps[1:]), 0.0]
    return [rate - following for rate, following in itertools.pairwise(rates)]
