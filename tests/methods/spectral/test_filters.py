"""Which directions of C SWUDI keeps, and how far each is moved."""

from __future__ import annotations

import math

import pytest
import torch

from svc_dist.methods.spectral.filters import Spectrum, above_rounding, spectrum_summary, swudi_a_filter, swudi_filter

VALUES = torch.tensor([1.0, 0.5, 1e-3, 1e-9, 0.0], dtype=torch.float64)


@pytest.mark.parametrize(("ratio", "kept"), [(1e-9, 1), (0.2, 1), (0.21, 2), (0.6, 3), (1.0, 5)])
def test_swudi_keeps_a_share_of_the_columns_whatever_the_spectrum(ratio: float, kept: int) -> None:
    chosen = swudi_filter(5, [300.0], ratio)
    assert chosen.known == kept
    assert chosen.cut(Spectrum(VALUES, 2, (20, 5))) == (kept, 0)


def test_the_flow_goes_all_the_way_along_strong_directions_and_hardly_along_weak_ones() -> None:
    near, far = swudi_filter(5, [10.0, 1000.0], 1.0).strengths
    assert near(VALUES).tolist() == pytest.approx([-math.expm1(-10 * lam) for lam in VALUES.tolist()], rel=1e-12)
    assert bool((far(VALUES) >= near(VALUES)).all())
    assert float(near(VALUES)[3]) == pytest.approx(1e-8, rel=1e-6)  # not lost beside 1
    assert float(near(VALUES)[4]) == 0.0


def test_swudi_a_goes_to_the_minimum_and_keeps_nothing_at_rounding_level() -> None:
    chosen = swudi_a_filter("cumvar_1.0")
    assert chosen.known is None
    (strength,) = chosen.strengths
    assert strength(VALUES).tolist() == [1.0] * 5
    kept, cut = chosen.cut(Spectrum(VALUES.clamp_min(1e-8), 3, (20, 5)))
    assert kept == 3
    assert cut >= 1


def test_the_rounding_level_is_that_of_the_arithmetic_that_summed() -> None:
    values = torch.tensor([1.0, 1e-6, 1e-10, 1e-18], dtype=torch.float64)
    assert above_rounding(values, 4, torch.float64) == 3
    assert above_rounding(values, 4, torch.float32) == 2
    assert above_rounding(torch.zeros(3, dtype=torch.float64), 3, torch.float64) == 1


def test_a_receipt_has_roots_of_eigenvalues_and_none_of_a_negative_one() -> None:
    summary = spectrum_summary(2, 1, torch.tensor([4.0, 0.25, -1e-18], dtype=torch.float64), 1e-15)
    assert summary == {"kept_rank": 2, "cut": 1, "residual": 1e-15, "singular_values": [2.0, 0.5, 0.0]}


@pytest.mark.parametrize(("ratio", "columns", "kept"), [(0.55, 100, 55), (0.07, 100, 7), (0.65, 32, 21)])
def test_a_share_of_the_directions_is_not_one_too_many_for_rounding(ratio: float, columns: int, kept: int) -> None:
    assert swudi_filter(columns, [300.0], ratio).known == kept
