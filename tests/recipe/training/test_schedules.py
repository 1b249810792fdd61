"""Weights of checkpoints, against decays of the learning rate that are run step by step."""

from __future__ import annotations

import itertools
import math

import pytest

from svc_dist.recipe.training.schedules import Decay, Schedule, schedule_weights


def decayed(updates: list[float], rates: list[float]) -> float:
    """Where a run ends whose updates are scaled by these rates."""
    position = 0.0
    for update, rate in zip(updates, rates, strict=True):
        position -= rate * update
    return position


@pytest.mark.parametrize(
    ("decay", "rate"),
    [
        ("linear", lambda x: 1 - x),
        ("cosine", lambda x: math.cos(math.pi * x / 2) ** 2),
        ("sqrt", lambda x: 1 - x**0.5),
    ],
)
def test_a_mean_of_checkpoints_is_the_run_with_a_decay(decay: Decay, rate: object) -> None:
    assert callable(rate)
    updates = [0.7, -0.2, 1.1, 0.4, -0.9]
    checkpoints = [0.0, *itertools.accumulate(-update for update in updates)]
    weights = schedule_weights("wsm", [100 * n for n in range(1, 7)], decay, 0.9)
    mean = sum(weight * one for weight, one in zip(weights, checkpoints, strict=True))
    rates = [rate(number / 6) for number in range(1, 6)]
    assert mean == pytest.approx(decayed(updates, rates), abs=1e-12)


def test_a_linear_decay_is_the_plain_mean() -> None:
    assert schedule_weights("wsm", [10, 20, 30, 40], "linear", 0.9) == pytest.approx([0.25] * 4)
    assert schedule_weights("window", [10, 20, 35, 40], "sqrt", 0.9) == [0.25] * 4


def test_a_moving_average_is_that_of_its_recursion() -> None:
    average, beta, values = 3.0, 0.8, [3.0, 1.0, 4.0, 1.5]
    for value in values[1:]:
        average = beta * average + (1 - beta) * value
    weights = schedule_weights("ema", [1, 2, 3, 4], "sqrt", beta)
    assert sum(w * v for w, v in zip(weights, values, strict=True)) == pytest.approx(average)


def test_inverse_sqrt_is_wsm_with_a_decay_of_one_minus_the_root() -> None:
    weights = schedule_weights("inverse_sqrt", [1, 2, 3, 4], "linear", 0.9)
    assert weights == schedule_weights("wsm", [1, 2, 3, 4], "sqrt", 0.9)
    assert weights == pytest.approx([0.5, math.sqrt(0.5) - 0.5, math.sqrt(0.75) - math.sqrt(0.5), 1 - math.sqrt(0.75)])


def test_the_decay_follows_the_steps_where_checkpoints_are_not_evenly_spaced() -> None:
    weights = schedule_weights("wsm", [0, 100, 400], "linear", 0.9)  # the decay ends at 600
    assert weights == pytest.approx([1 / 6, 1 / 2, 1 / 3])


@pytest.mark.parametrize("schedule", ["wsm", "inverse_sqrt", "ema", "window"])
@pytest.mark.parametrize("count", [1, 2, 7, 40])
def test_weights_are_positive_and_add_up_to_one(schedule: Schedule, count: int) -> None:
    for decay in ("sqrt", "linear", "cosine"):
        weights = schedule_weights(schedule, [1000 * n for n in range(count)], decay, 0.9)
        assert len(weights) == count
        assert min(weights) > 0
        assert sum(weights) == pytest.approx(1, abs=1e-12)
