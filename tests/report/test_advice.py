"""Advice goes by the evidence."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from svc_dist.report.advice import Advice, advice
from svc_dist.report.diagnosis import Diagnosis
from svc_dist.run_folder.report import ReportedRange
from tests.report.test_similarity import of

SHARED = ([1.0, 0.0], [0.6, 0.8])  # the sum counts 1.6 times
APART = ([1.0, 0.0], [0.0, 1.0])
LITTLE = ([1.0, 0.0], [0.1, 0.99499])
OPPOSED = ([1.0, 0.0], [-0.6, 0.8])


def given(
    vectors: tuple[list[float], ...], method: str = "task_arithmetic", weight: float | None = None, merged: bool = True,
    gamma: float | None = None, **recipe: Any,
) -> Advice:  # fmt: skip
    """The advice for experts with these deltas, merged by this recipe, or inspected; scaled by gamma, if calibrated."""
    parameters = {} if weight is None else {"parameters": {"weight": weight}}
    models = [{"model": f"/m/{name}", "rename": [], **parameters} for name in "abcdef"[: len(vectors)]]
    report = of(*vectors).report
    norms = {"norm_merged": 1.0, "norm_calibrated": gamma, "norm_changed": abs((gamma or 1) - 1), "gamma": [gamma]}
    summary = {"tensor": "w", "matrix": 0} | ({} if gamma is None else {"gamma_by_energy": gamma, **norms})
    made = dataclasses.replace(report, recipe={"models": models, "merge_method": method, **recipe}, matrices=[summary])
    if merged:
        object.__setattr__(made, "ranges", (ReportedRange("u", 0, 0, 1, ""),))
    found = advice(Diagnosis(made))
    assert found is not None
    return found


@pytest.mark.parametrize("merged", [True, False])
def test_a_sum_that_counts_much_twice_is_to_be_calibrated(merged: bool) -> None:
    found = given(SHARED, merged=merged)
    assert found.keys == {"calibrate": "svc"}
    assert found.text.startswith("Calibrate: the plain sum counts what the experts learned 1.60 times.")
    assert "bring that to 0.80 on average" in given(SHARED, weight=0.5).text
    assert "bring that to 0.80 on average" in given(SHARED, "linear").text


def test_a_recipe_that_calibrates_already_keeps_it() -> None:
    assert given(SHARED, merged=False, gamma=0.6, calibrate={"method": "svc"}) == Advice(
        "Keep calibrate in the recipe: the plain sum counts what the experts learned 1.60 times."
    )
    kept = given(SHARED, gamma=0.6, calibrate={"method": "svc"})
    assert (kept.text.partition(":")[0], kept.keys) == ("Keep the recipe as it is", {})
    assert kept.command == "svc-dist report CALIBRATED --compare PLAIN"
    for without in ("none", {"method": "none"}, [{"method": "none"}], []):
        assert given(SHARED, merged=False, gamma=0.6, calibrate=without).text.startswith("Calibrate: ")
    assert "can be left out" in given(APART, gamma=1.01, calibrate={"method": "svc"}).text


@pytest.mark.parametrize("weight", [0.4, 1.0])
def test_experts_that_share_little_are_to_be_calibrated_too(weight: float) -> None:
    """On the project's language model the plain sum counts 1.04 times: SVC gained most there, and weight 1 lost."""
    for method in ("task_arithmetic", "ties"):
        found = given(APART, method, weight=weight)
        assert found.text.startswith(
            "Calibrate, and compare: the plain sum counts what the experts learned 1.00 times."
        )
        assert found.keys == {"calibrate": "svc"}
    inspected = given(LITTLE, weight=weight, merged=False, gamma=0.92)
    assert inspected.keys == {"calibrate": "svc"}
    kept = given(LITTLE, merged=False, gamma=0.84, calibrate="svc")
    assert kept == Advice("Keep calibrate in the recipe: the plain sum counts what the experts learned 1.10 times.")


def test_where_calibration_would_change_nothing_the_recipe_stays() -> None:
    assert given(APART, merged=False, gamma=1.01) == Advice(
        "Keep the recipe as it is: the plain sum counts what the experts learned 1.00 times. Calibration would change "
        "next to nothing."
    )


def test_weights_far_below_an_equal_share_are_too_small_for_calibration() -> None:
    assert [one["parameters"] for one in given(SHARED, weight=0.1, gamma=2.0, calibrate="svc").keys["models"]] == [
        {"weight": 1.0}, {"weight": 1.0}
    ]  # fmt: skip
    assert given(SHARED, weight=0.4, gamma=2.0, calibrate="svc").keys == {}


def test_experts_that_cancel_are_to_be_calibrated() -> None:
    found = given(OPPOSED)
    assert (found.keys, "0.40 of what they learned is left" in found.text) == ({"calibrate": "svc"}, True)


def test_one_of_two_that_nearly_coincide_is_left_out_first() -> None:
    found = given(([1.0, 0.0, 0.0], [1.0, 0.1, 0.4], [0.0, 0.0, 1.0]), weight=0.3)
    assert found.text.startswith("b and a nearly coincide (cosine 0.92)")
    weight = {"parameters": {"weight": 0.3}}
    assert found.keys == {"models": [{"model": "/m/a", **weight}, {"model": "/m/c", **weight}]}


def test_two_experts_that_nearly_coincide_are_not_worth_a_merge() -> None:
    found = given(([1.0, 0.0], [1.0, 0.1]))
    assert "Use one of the two instead of a merge" in found.text
    assert found.keys == {}


def test_methods_with_a_spectrum_of_their_own_go_by_measurements() -> None:
    assert given(SHARED, "wudi").keys == {}
    assert "no alpha gained any" in given(SHARED, "wudi").text
    assert given(SHARED, "swudi").keys == {"calibrate": "svc"}


def test_without_evidence_or_where_an_expert_is_subtracted_there_is_no_advice() -> None:
    models = [{"model": "/m/a"}, {"model": "/m/b", "parameters": {"weight": -1.0}}]
    assert advice(Diagnosis(dataclasses.replace(of(*SHARED).report, recipe={"models": models}))) is None
    assert advice(Diagnosis(of([1.0, 0.0]).report)) is None
    assert advice(Diagnosis(dataclasses.replace(of(*SHARED).report, deltas=[]))) is None


def test_models_that_a_recipe_does_not_list_plainly_make_no_keys() -> None:
    assert given(SHARED, weight=0.1, gamma=2.0, calibrate="svc", models="elsewhere").keys == {}
    alike = ([1.0, 0.0, 0.0], [1.0, 0.1, 0.4], [0.0, 0.0, 1.0])
    assert given(alike, models=[{"sources": []}] * 3).keys == {}
