"""Two merges side by side."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

from svc_dist.report.diagnosis import Diagnosis
from svc_dist.report.page import Other, render
from svc_dist.report.sections.compared import figures, gammas, recipe_changes, same_bytes, scores
from svc_dist.run_folder.report import Evaluation, MergeReport, ReportedRange
from tests.report.test_similarity import of

NORMS = {"norm_merged": 4.0, "norm_calibrated": 2.0, "norm_changed": 2.0, "gamma": [0.5], "gamma_by_energy": 0.5}


def merged(checksums: str = "xy", **fields: Any) -> MergeReport:
    """A merge of two experts whose sum counts 1.6 times, with ranges of 30 and 10 bytes."""
    made = dataclasses.replace(of([1.0, 0.0], [0.6, 0.8]).report, **fields)
    places = ((0, 30), (30, 40))
    ranges = tuple(ReportedRange("u", 0, *place, sum_) for place, sum_ in zip(places, checksums, strict=True))
    object.__setattr__(made, "ranges", ranges)
    return made


CALIBRATED = [{"tensor": "w", "matrix": 0, **NORMS}]


def test_figures_stand_beside_each_other() -> None:
    this, other = Diagnosis(merged(matrices=CALIBRATED, unit_seconds={"read": 90.0})), Diagnosis(merged())
    assert {what: values for what, *values in figures(this, other)} == {
        "experts": ["a, b", "a, b"],
        "method": ["", ""],
        "times counted by the plain sum": ["1.60", "1.60"],
        "matrices above 1.5 times": ["100%", "100%"],
        "times counted before calibration": ["2.00", "–"],
        "change of the deltas by calibration": ["50%", "–"],
        "their size after calibration": ["0.50", "–"],
        "minutes": ["1.5", "0.00"],
    }
    assert list(gammas(this, other)) == [("w", "0.50", "–")]
    assert list(gammas(other, other)) == []


def test_scores_of_either_merge_have_a_row() -> None:
    def scored(**metrics: float) -> MergeReport:
        return merged(evaluations=(Evaluation("mine", "t", "run", metrics, 1.0, "now"),))

    assert list(scores(scored(acc=0.5, f1=0.25), scored(acc=0.75))) == [
        ("score: mine, acc", "0.5", "0.75"), ("score: mine, f1", "0.25", "–")
    ]  # fmt: skip


def test_equal_ranges_are_counted_by_their_bytes() -> None:
    assert same_bytes(merged("xy"), merged("xy")) == "The models are the same to the byte."
    assert same_bytes(merged("xy"), merged("xz")).startswith("75% of the models' bytes")
    assert "cut into different ranges" in same_bytes(merged("xy"), of([1.0], [1.0]).report)


def test_only_lines_of_recipes_that_differ_are_shown() -> None:
    one, two = merged(recipe={"a": 1, "b": [2, 3]}), merged(recipe={"a": 1, "b": [2, 4]})
    assert recipe_changes(one, two) == ["-- 4", "+- 3"]
    assert recipe_changes(one, one) == []


def test_the_page_marks_what_differs() -> None:
    text = render(merged(matrices=CALIBRATED), "Merge one", Other("<two>", merged()))
    assert "<h2>Compared with &lt;two&gt;</h2>" in text
    assert re.findall(r"<tr><th></th><th>(.*?)</th><th>(.*?)</th></tr>", text) == [("one", "&lt;two&gt;")]
    assert "<td>their size after calibration</td><td><strong>0.50</strong></td><td><strong>–</strong></td>" in text
    assert "<td>times counted by the plain sum</td><td>1.60</td>" in text
    assert "Compared with" not in render(merged(), "Merge one")
