"""A matrix that is merged for its seconds: what it is counted as, and the rates that follow."""

from __future__ import annotations

import pytest

from svc_dist.forecast.rates import Speed
from svc_dist.forecast.trial_matrix import TrialMatrix, as_in_units
from svc_dist.methods.costs import Work


def test_rates_are_those_at_which_the_whole_takes_what_was_measured() -> None:
    work = Work(float64=3e9, float32=4e9, eigen=((512, 2.0),))
    speed = Speed(1e9, 2e9, 1e8, ((512, 0.5), (1024, 4.0)), 1e8, 5e7)
    assert speed.seconds(work) == 6
    slower = as_in_units(speed, work, 7.5)
    assert slower.seconds(work) == pytest.approx(7.5)
    assert slower.eigen_seconds(1024) == pytest.approx(5)
    assert (slower.elementwise, slower.decode, slower.encode) == (1e8, 1e8, 5e7)


@pytest.mark.slow
def test_its_work_is_a_calibrated_sums() -> None:
    matrix = TrialMatrix()
    small, large, experts = 1024, 2816, 3
    assert matrix.work.eigen == ((small, 1.0),)
    assert matrix.work.float32 == experts * 2.0 * small**2 * large
    matrix.merge()
