"""Scores: which numbers a command's output or files hold, and which one counts."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import pytest

from svc_dist.errors import EvaluationError, RecipeError
from svc_dist.scoring.metrics import chosen, printed, written


@pytest.mark.parametrize(
    ("text", "metrics"),
    [
        ("loading\n0.5\n\n", {"score": 0.5}),
        ("7", {"score": 7.0}),
        ("1e-3\n", {"score": 0.001}),
        ("1" + "0" * 400, {"score": math.inf}),
        ('{"acc": -1%s}' % ("0" * 400), {"acc": -math.inf}),
        ('{"acc": 0.5, "name": "x", "deep": {"f1": 1, "ok": true}}', {"acc": 0.5, "deep.f1": 1.0}),
    ],
)
def test_the_last_line(text: str, metrics: dict[str, float]) -> None:
    assert printed(text) == metrics


@pytest.mark.parametrize("text", ["", "\n \n", "done", "[" * 100_000, "true", "[1, 2]", "{}", '{"acc": "high"}'])
def test_a_last_line_without_a_score(text: str) -> None:
    with pytest.raises(EvaluationError):
        printed(text)


def test_the_files_of_lm_eval(tmp_path: Path) -> None:
    """They lie in a folder named after the model; the newest counts."""
    old, new = tmp_path / "results_1.json", tmp_path / "model" / "results_2.json"
    new.parent.mkdir()
    new.write_text(
        json.dumps(
            {
                "results": {
                    "demo": {
                        "alias": "demo",
                        "sample_len": 20,
                        "acc,none": 0.25,
                        "acc_stderr,none": 0.1,
                        "em,strict": 0.5,
                    }
                },
                "n-shot": {"demo": 0},
            }
        )
    )
    old.write_text('{"results": {"demo": {"acc,none": 1.0}}}')
    os.utime(old, (1, 1))
    assert written(tmp_path) == {"demo.acc": 0.25, "demo.acc_stderr": 0.1, "demo.em,strict": 0.5}


def test_files_that_hold_no_score(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="no JSON file"):
        written(tmp_path)
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(EvaluationError, match=r"a\.json.* not JSON"):
        written(tmp_path)


def test_which_metric_counts() -> None:
    metrics = {"demo.acc": 0.25, "demo.acc_stderr": 0.1}
    assert chosen(metrics, None) == 0.25
    assert chosen(metrics, "acc") == 0.25
    assert chosen(metrics, "demo.acc_stderr") == 0.1
    assert chosen({"a": float("nan")}, "a") is None
    with pytest.raises(RecipeError, match=r"2 metrics \(a, b\)"):
        chosen({"a": 1.0, "b": 2.0}, None)
    with pytest.raises(RecipeError, match="--metric f1 is none"):
        chosen(metrics, "f1")
    with pytest.raises(RecipeError, match="several"):
        chosen({"x.acc": 1.0, "y.acc": 2.0}, "acc")
