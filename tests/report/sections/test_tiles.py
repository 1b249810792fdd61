"""The four figures on top of a page."""

from __future__ import annotations

import dataclasses
import math
import re

from svc_dist.report.effect import Effect
from svc_dist.report.sections.tiles import tiles
from svc_dist.report.summary import Summary

MERGED = Summary(1.518, 13, 18, 1.72, Effect(0.73, 0.6), 90.0, "12 units, 1 host", True)


def shown(summary: Summary) -> list[tuple[str, str, str, str]]:
    return re.findall(r'<div class="(.*?)"><em>(.*?)</em><strong>(.*?)</strong><span>(.*?)</span>', tiles(summary))


def test_a_calibrated_merge() -> None:
    assert shown(MERGED) == [
        ("tile w3", "Times counted", "1.52", "by the plain sum of the experts; 1 is right"),
        ("tile", "Matrices above 1.5 times", "72%", "13 of 18"),
        ("tile", "Change of the deltas", "60%", "to 0.73 times their size"),
        ("tile", "Minutes", "1.5", "12 units, 1 host"),
    ]


def test_a_merge_that_was_not_calibrated_or_hardly_changed() -> None:
    plain = dataclasses.replace(MERGED, effect=None)
    assert shown(plain)[2][2:] == ("–", "this merge was not calibrated")
    hardly = dataclasses.replace(MERGED, effect=Effect(1.0, 0.02))
    assert shown(hardly)[2][2:] == ("2%", "by calibration, hardly any")


def test_an_inspection_says_what_calibration_would_do() -> None:
    inspected = dataclasses.replace(MERGED, merged=False)
    assert shown(inspected)[2][1:] == (
        "Change by calibration",
        "60%",
        "calibrate: svc would bring them to 0.73 times their size",
    )
    hardly = dataclasses.replace(inspected, effect=Effect(1.0, 0.02))
    assert shown(hardly)[2][3] == "calibrate: svc would hardly change them"
    nothing = Summary(math.nan, 0, 0, math.nan, None, 0.0, "of all units together", False)
    assert [one[2] for one in shown(nothing)] == ["–", "–", "–", "0.00"]
    assert shown(nothing)[1][3] == "no matrix was compared"
