"""The rows of svc_dist.methods.auto.table: each decides about experts of its own, and names what exists."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from svc_dist.methods.auto.choice import AUTO, choose
from svc_dist.methods.auto.features import Features
from svc_dist.methods.auto.table import CALIBRATIONS, MERGE_METHODS, Row
from svc_dist.methods.registry import CALIBRATIONS as STEPS
from svc_dist.methods.registry import METHODS

DOCS = Path(__file__).parents[3] / "docs"
SVC, NONE = {"method": "svc"}, {"method": "none"}
SWUDI = {"exp_time": 300, "rank_ratio": 0.3}
HALF = {"method": "svc", "alpha": 0.5}


def features(experts: int = 4, adapters: float = 0.0, **values: Any) -> Features:
    figures = {"times": 1.2, "cosine": 0.1, "changed": 0.99, "rank": 0.5, "norms": (0.02,) * experts} | values
    return Features(experts=experts, adapters=adapters, tensors=16, bytes_read=1 << 20, **figures)


@pytest.mark.parametrize(
    ("found", "keys"),
    [
        (features(1), {"merge_method": "task_arithmetic", "parameters": {"lambda": 1.0}, "calibrate": NONE}),
        (features(3, 1.0), {"merge_method": "tsv_m", "parameters": {"lambda": 0.5}, "calibrate": SVC}),
        (features(2), {"merge_method": "swudi", "parameters": SWUDI, "calibrate": NONE}),
        (features(5, 0.4), {"merge_method": "swudi", "parameters": SWUDI, "calibrate": NONE}),
        (features(8), {"merge_method": "tsv_m", "parameters": {"lambda": 0.5}, "calibrate": SVC}),
    ],
)
def test_a_merge_method_for_each_kind_of_experts(found: Features, keys: dict[str, Any]) -> None:
    choice = choose({"merge_method": AUTO, "calibrate": None}, found, 1.0)
    assert choice.keys == keys
    assert choice.features == found


@pytest.mark.parametrize(
    ("method", "experts", "scale", "calibration"),
    [
        ("swudi", 1, 1.0, NONE),
        ("tsv_m", 8, 1.0, HALF),
        ("tsv_m", 8, 0.5, SVC),
        ("tsv_m", 4, 1.0, SVC),
        ("iso_c", 8, 1.5, HALF),
        ("wudi", 8, 1.0, NONE),
        ("task_arithmetic", 8, 0.3, SVC),
        ("swudi_a", 4, 1.0, SVC),
        ("swudi", 4, 1.0, NONE),
        ("breadcrumbs", 4, 1.0, NONE),
    ],
)
def test_a_calibration_for_each_method(method: str, experts: int, scale: float, calibration: dict[str, Any]) -> None:
    choice = choose({"merge_method": method, "calibrate": AUTO}, features(experts), scale)
    assert choice.keys == {"calibrate": calibration}


def test_a_calibration_that_the_recipe_names_stays() -> None:
    choice = choose({"merge_method": AUTO, "calibrate": {"method": "none"}}, features(4), 1.0)
    assert choice.keys == {"merge_method": "swudi", "parameters": SWUDI}
    assert choice.what == "swudi (exp_time 300, rank_ratio 0.3)"


@pytest.mark.parametrize("row", [*MERGE_METHODS, *CALIBRATIONS], ids=lambda row: row.title)
def test_rows_name_what_exists(row: Row) -> None:
    if "merge_method" in row.keys:
        METHODS[row.keys["merge_method"]].complete(4, row.keys["parameters"])
    calibration = row.keys["calibrate"]
    if calibration["method"] != "none":
        STEPS[calibration["method"]].complete(calibration, 4)
    assert set(row.methods) <= set(METHODS)
    assert set(row.when) <= {*vars(features()), "lambda"}
    if row.evidence:
        page, _, section = row.evidence.partition(", ")
        text = (DOCS.parent / page).read_text(encoding="utf-8")
        assert not section or f"\n## {section}\n" in text


def test_rows_are_selected_by_what_the_texts_name() -> None:
    assert {name for row in MERGE_METHODS for name in row.when} <= {"experts", "adapters"}
    assert {name for row in CALIBRATIONS for name in row.when} <= {"experts", "lambda"}


@pytest.mark.parametrize("table", [MERGE_METHODS, CALIBRATIONS])
def test_the_last_row_takes_all(table: tuple[Row, ...]) -> None:
    assert (table[-1].when, table[-1].methods) == ({}, ())


def test_a_choice_in_words() -> None:
    choice = choose({"merge_method": AUTO, "calibrate": None}, features(4), 1.0)
    assert choice.what == "swudi (exp_time 300, rank_ratio 0.3), without calibration"
    assert choice.why.startswith("for 4 full fine-tunes: SWUDI was the best merge of three")
    assert choice.why.endswith("(docs/choosing.md, In short)")
    many = choose({"merge_method": AUTO, "calibrate": None}, features(8), 1.0)
    assert many.what == "tsv_m (lambda 0.5), calibrated by svc"
    plain = choose({"merge_method": "wudi", "calibrate": AUTO}, features(4), 1.0)
    assert plain.what == "no calibration"
    half = choose({"merge_method": "iso_c", "calibrate": AUTO}, features(4), 1.0)
    assert half.what == "calibration svc (alpha 0.5)"
    assert half.yaml == ("calibrate: {method: svc, alpha: 0.5}",)
    unsupported = choose({"merge_method": "breadcrumbs", "calibrate": AUTO}, features(4), 1.0)
    assert unsupported.why.endswith("(no table of docs/choosing.md supports this row yet)")
