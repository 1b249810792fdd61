"""The best recipe: values put into the user's file, wherever they belong, and nothing else changed.

Also svc_dist.scoring.search.searched: the recipe that a search changes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from svc_dist.scoring.search.best import best_recipe
from svc_dist.scoring.search.searched import Searched
from svc_dist.scoring.search.trials import Trial
from svc_dist.storage.access import DEFAULT_ACCESS

HEAD = "base_model: base  # old\nmodels:\n  - model: one\n  - model: two  # second\n    parameters: {weight: 0.5}\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("base", "one", "two", "found"):
        (tmp_path / name).mkdir()
    return tmp_path


def best(folder: Path, text: str, over: list[str], values: dict[str, Any]) -> str:
    (folder / "r.yaml").write_text(text)
    searched = Searched(folder / "r.yaml", {}, DEFAULT_ACCESS)
    return best_recipe(searched, searched.space(over), Trial(1, 1, values), "about", folder / "found")


@pytest.mark.parametrize(
    ("rest", "over", "values", "lines"),
    [
        ("merge_method: ties\n", "lambda=0:1", 0.3, "parameters: {lambda: 0.3}"),
        ("merge_method: ties", "lambda=0:1", 0.3, "parameters: {lambda: 0.3}"),
        ("merge_method: ties\nparameters: {lambda: 0.9}  # big\n", "lambda=0:1", 0.3, "{lambda: 0.3}  # big"),
        (
            "merge_method: ties\nparameters:\n  density: 0.5  # half\ndtype: float32\n", "lambda=0:1", 0.3,
            "parameters:\n  density: 0.5  # half\n  lambda: 0.3\ndtype: float32",
        ),
        ("merge_method: ties\nparameters: {density: 0.5}\n", "lambda=0:1", 0.3, "{density: 0.5, lambda: 0.3}"),
        ("merge_method: ties\ncalibrate: svc\n", "alpha=0.1:1", 0.3, "calibrate: {method: svc, alpha: 0.3}"),
        ("merge_method: ties\ncalibrate: svc\n", "calibrate=none,svc", "none", "calibrate: none"),
        (
            "merge_method: ties\ncalibrate: [svc, magic]  # both\n", "alpha=0.1:1", 0.3,
            "calibrate: [{method: svc, alpha: 0.3}, {method: magic}]  # both",
        ),
        (
            "merge_method: ties\ncalibrate:\n  method: svc\n  alpha: 1.0\n", "alpha=0.1:1", 0.3,
            "calibrate:\n  method: svc\n  alpha: 0.3",
        ),
        ("merge_method: ties\n", "weight.two=0:1", 0.3, "parameters: {weight: 0.3}"),
        ("merge_method: ties\n", "weight.one=0:1", 0.3, "- model: ../one\n    parameters: {weight: 0.3}"),
    ],
)  # fmt: skip
def test_values_go_where_they_belong(folder: Path, rest: str, over: str, values: Any, lines: str) -> None:
    text = best(folder, HEAD + rest, [over], {over.partition("=")[0]: values})
    assert lines in text
    assert text.startswith("# about\nbase_model: ../base  # old\nmodels:\n  - model: ../one\n")
    assert "  - model: ../two  # second\n" in text
    (folder / "found" / "best.yaml").write_text(text)
    assert Searched(folder / "found" / "best.yaml", {}, DEFAULT_ACCESS).recipe.models[2].location == str(folder / "two")
    assert list(yaml.safe_load(text))[:3] == ["base_model", "models", "merge_method"]


def test_the_recipe_as_it_is(folder: Path) -> None:
    text = best(folder, HEAD + "merge_method: ties\n", ["lambda=0:1"], {})
    assert (
        text
        == "# about\n"
        + HEAD.replace(": base", ": ../base").replace("el: one", "el: ../one").replace("el: two", "el: ../two")
        + "merge_method: ties\n"
    )
