"""The plan's warnings: options without effect, patterns that match nothing, and choices that measurements refute."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from svc_dist.plan.make import make_plan
from svc_dist.plan.model import Plan
from svc_dist.plan.settings import Settings
from svc_dist.recipe.load import load_recipe
from tests.support.checkpoints import write_llamas, write_recipe


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_llamas(tmp_path_factory.mktemp("llamas"))


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The base and five experts."""
    return write_llamas(tmp_path_factory.mktemp("many"), experts=5)


def plan(recipe: Path) -> Plan:
    return make_plan(load_recipe(recipe), Settings())


def test_options_without_effect_are_warned_of(models: list[Path], tmp_path: Path) -> None:
    rules = [{"match": ["lm_head*", "nosuch*"], "keep": "base"}, {"match": "*", "calibrate": "none"}]
    made = plan(write_recipe(tmp_path / "r.yaml", models, calibrate="svc", fallback="linear", rules=rules))
    assert any("the pattern 'nosuch*' matches no tensor" in warning for warning in made.warnings)
    assert any("calibration applies to no tensor" in warning for warning in made.warnings)
    assert any("fallback" in warning and "has no effect" in warning for warning in made.warnings)


@pytest.mark.parametrize("method", ["tsv_m", "wudi", "optmerge"])
def test_the_default_alpha_on_a_method_that_it_was_seen_to_harm_is_warned_of(
    many: list[Path], tmp_path: Path, method: str
) -> None:
    (warning,) = plan(write_recipe(tmp_path / "r.yaml", many, method=method, calibrate="svc")).warnings
    assert f"svc without alpha on {method}" in warning
    assert "points" in warning
    assert "docs/choosing.md" in warning


@pytest.mark.parametrize(
    "keys",
    [
        {"calibrate": "svc", "rules": [{"match": "*.q_proj.weight", "merge_method": "tsv_m"}]},
        {
            "rules": [
                {"match": "*.q_proj.weight", "merge_method": "tsv_m", "calibrate": {"method": "svc", "side": "right"}}
            ]
        },
    ],
)
def test_the_default_alpha_that_harms_in_a_rule_is_warned_of(
    many: list[Path], tmp_path: Path, keys: dict[str, Any]
) -> None:
    (warning,) = plan(write_recipe(tmp_path / "r.yaml", many, **keys)).warnings
    assert "svc without alpha on tsv_m" in warning
    assert "points" in warning
    assert "docs/choosing.md" in warning


@pytest.mark.parametrize(
    "keys",
    [
        {"calibrate": "svc"},
        {"method": "swudi", "calibrate": "svc"},
        {"method": "tsv_m", "calibrate": {"method": "svc", "alpha": 1.0}},
        {"method": "tsv_m", "calibrate": "svc", "parameters": {"lambda": 0.5}},
        {"method": "tsv_m"},
        {"method": "tsv_m", "calibrate": "svc", "rules": [{"match": "*", "calibrate": "none"}]},
    ],
)
def test_no_alpha_is_warned_of_where_it_does_no_harm_or_was_asked_for(
    many: list[Path], tmp_path: Path, keys: dict[str, Any]
) -> None:
    warnings = plan(write_recipe(tmp_path / "r.yaml", many, **keys)).warnings
    assert not any("without alpha" in warning for warning in warnings)


def test_no_alpha_is_warned_of_where_few_experts_make_it_large(many: list[Path], tmp_path: Path) -> None:
    assert not plan(write_recipe(tmp_path / "r.yaml", many[:5], method="tsv_m", calibrate="svc")).warnings
