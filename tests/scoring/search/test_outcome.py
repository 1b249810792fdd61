"""The trials of a search by score: a table, data, and a page with a plot."""

from __future__ import annotations

import csv
import io
import sys
from xml.etree import ElementTree

import pytest

from svc_dist.report.figures import svg
from svc_dist.scoring.search.outcome import Outcome, progress
from svc_dist.scoring.search.page import plot, render
from svc_dist.scoring.search.trials import Trial

TRIALS = (
    Trial(0, 1, {}).scored({"acc": 0.5}, 1.0),
    Trial(1, 1, {"lambda": 0.3, "rule": "a"}).scored({"acc": 0.7}, 1.0),
    Trial(2, 1, {"lambda": 0.5, "rule": "<b>"}).failed("it fell\nover"),
    Trial(3, 2, {"lambda": 0.9, "rule": "a"}).scored({"acc": float("inf")}, 1.0),
    Trial(4, 2, {"lambda": 0.7, "rule": "b"}).scored({"acc": 0.6}, 1.0),
)


def outcome(minimise: bool = False, trials: tuple[Trial, ...] = TRIALS) -> Outcome:
    return Outcome("folder", ("lambda", "rule"), trials, None, minimise)


def test_the_best_comes_first() -> None:
    assert [one.number for one in outcome().ranked] == [1, 4, 0]
    assert [one.number for one in outcome(minimise=True).ranked] == [0, 4, 1]
    assert outcome(trials=TRIALS[2:3]).best is None
    assert list(outcome().table()) == [
        "trial  score  lambda  rule",
        "1      0.7    0.3     a",
        "4      0.6    0.7     b",
        "0      0.5    recipe  recipe",
        "2: it fell",
        "3: its score is not finite",
    ]
    assert list(outcome().table(1))[2] == "... and 2 more in folder/trials.csv"


def test_the_table_for_other_programs() -> None:
    rows = list(csv.DictReader(io.StringIO(outcome().csv())))
    assert [row["score"] for row in rows] == ["0.5", "0.7", "", "", "0.6"]
    assert rows[2]["error"] == "it fell\nover"
    data = outcome().data()
    assert data["best"]["number"] == 1
    assert data["trials"][3]["score"] is None


@pytest.mark.parametrize(
    ("metrics", "columns"),
    [
        ({"score": 0.5}, ["trial", "state", "score", "lambda", "seconds", "error"]),
        (
            {"acc": 0.5, "score": 0.4, "lambda": 1.0},
            ["trial", "state", "score", "lambda", "acc", "metric score", "metric lambda", "seconds", "error"],
        ),
    ],
)
def test_no_two_columns_have_one_name(metrics: dict[str, float], columns: list[str]) -> None:
    trial = Trial(1, 1, {"lambda": 0.3}).scored(metrics, 1.0)
    metric = "acc" if "acc" in metrics else None
    header, row = csv.reader(io.StringIO(Outcome("folder", ("lambda",), (trial,), metric, False).csv()))
    assert header == columns
    assert row[:4] == ["1", "scored", "0.5", "0.3"]


@pytest.mark.parametrize("trials", [TRIALS, TRIALS[:1], TRIALS[2:3]])
def test_the_page_shows_every_trial_and_draws_what_has_a_score(trials: tuple[Trial, ...]) -> None:
    """svc_dist.scoring.search.page"""
    text = render(outcome(trials=trials), "Search of r.yaml", "score {output} <x>")
    assert text.count("<tr>") == 1 + len(trials)
    assert ("<svg" in text) == any(one.metrics for one in trials)
    assert "<b>" not in text
    assert "<x>" not in text
    assert "http://" not in text.replace("http://www.w3.org", "")


def test_a_panel_for_each_value_and_one_for_the_progress() -> None:
    figure = plot(outcome())
    assert figure is not None
    assert len(figure.axes) == 3
    assert tuple(figure.axes[1].lines[0].get_xdata()) == (0.3, 0.7)
    ElementTree.fromstring(svg(figure))


def test_progress() -> None:
    assert progress([0.3, 0.2, 0.4], minimise=False) == [0.3, 0.3, 0.4]
    assert progress([0.3, 0.4, 0.2], minimise=True) == [0.3, 0.3, 0.2]


def test_without_matplotlib_the_page_has_its_table_and_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    text = render(outcome(), "Search of r.yaml", "score {output}")
    assert "<svg" not in text
    assert "pip install 'svc-dist[report]'" in text
    assert "<h2>Trials</h2>" in text
