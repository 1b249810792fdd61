"""What calibration did: shrunk, lifted, hardly touched, from all directions or from the leading ones."""

from __future__ import annotations

import math
from typing import Any

import pytest

from svc_dist.report.effect import Effect, Kind

DID = {Kind.SHRUNK: "shrank", Kind.LIFTED: "lifted", Kind.HARDLY_TOUCHED: "hardly touched"}


def summary(*directions: tuple[float, float], exact: bool = True) -> dict[str, Any]:
    """Of a matrix with these pairs of sigma and gamma."""
    said: dict[str, Any] = {"sigma": [s for s, _ in directions], "gamma": [g for _, g in directions]}
    if exact:
        said |= {
            "norm_merged": math.hypot(*(s for s, _ in directions)),
            "norm_calibrated": math.hypot(*(s * g for s, g in directions)),
            "norm_changed": math.hypot(*(s * (g - 1) for s, g in directions)),
        }
    return said


def test_a_calibration_without_gammas_counts_by_its_norms() -> None:
    effect = Effect.of([{"norm_merged": 2.0, "norm_calibrated": 1.0, "norm_changed": 1.0}, {"sigma": [1.0]}])
    assert effect == Effect(0.5, 0.5)


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize(
    ("directions", "kind", "growth", "change"),
    [
        ([(4.0, 1.75), (3.0, 1.8)], Kind.LIFTED, math.hypot(7.0, 5.4) / 5, math.hypot(3.0, 2.4) / 5),
        ([(4.0, 0.5), (3.0, 1.0)], Kind.SHRUNK, math.hypot(2.0, 3.0) / 5, 0.4),
        ([(4.0, 0.97), (3.0, 1.02)], Kind.HARDLY_TOUCHED, math.hypot(3.88, 3.06) / 5, math.hypot(0.12, 0.06) / 5),
    ],
)
def test_the_three_cases_by_size_and_change(
    directions: list[tuple[float, float]], kind: Kind, growth: float, change: float, exact: bool
) -> None:
    halves = [summary(one, exact=exact) for one in directions]  # two matrices are as one of both
    for found in (Effect.of([summary(*directions, exact=exact)]), Effect.of(halves)):
        assert found is not None
        assert (found.kind, found.exact) == (kind, exact)
        assert (found.growth, found.change) == (pytest.approx(growth), pytest.approx(change))


def test_matrices_that_were_not_calibrated_and_deltas_of_zero_have_no_effect() -> None:
    assert Effect.of([{"sigma": [1.0]}]) is None
    assert Effect.of([summary((0.0, 1.0))]) is None
    assert Effect.of([]) is None


def test_a_sentence_names_the_size_unless_nothing_is_to_be_seen() -> None:
    assert Effect(1.755, 0.78).sentence("It", DID) == "It lifted the deltas to 1.75 times their size, a change of 78%."
    assert Effect(0.6, 0.41).sentence("It", DID) == "It shrank the deltas to 0.60 times their size, a change of 41%."
    assert Effect(0.99, 0.004).sentence("It", DID) == "It hardly touched the deltas: a change of less than 1%."
