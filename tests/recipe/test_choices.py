"""What is chosen for a tensor: methods with complete parameters, calibrations, models to keep."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from svc_dist.recipe.choices import KeepChoice, MergeChoice
from svc_dist.recipe.resolved import ResolvedRecipe
from tests.support.recipes import MINIMAL, chosen, locations, refused, resolved


def test_a_minimal_recipe_means_what_it_does_in_mergekit() -> None:
    assert locations(resolved(MINIMAL)) == ["/recipes/base", "/recipes/one", "/recipes/two"]
    found = chosen(MINIMAL)
    assert found.default.method == "task_arithmetic"
    assert found.default.parameters == {"weight": [0.3, 1.0], "normalize": False, "lambda": 1.0}
    assert found.default.calibration is None


@pytest.mark.parametrize(
    ("calibrate", "expected"),
    [
        ("svc", {"method": "svc", "alpha": 0.5, "side": "left"}),
        ("{method: svc}", {"method": "svc", "alpha": 0.5, "side": "left"}),
        ("{method: svc, alpha: 1}", {"method": "svc", "alpha": 1.0, "side": "left"}),
        ("{method: svc, alpha: 1e-1, side: right}", {"method": "svc", "alpha": 0.1, "side": "right"}),
        ("none", None),
        ("null", None),
    ],
)
def test_calibration_in_all_its_forms(calibrate: str, expected: object) -> None:
    assert chosen(MINIMAL + f"calibrate: {calibrate}").default.calibration == expected


def test_rules_inherit_what_they_do_not_set() -> None:
    found = chosen(
        MINIMAL
        + """\
parameters: {weight: 0.5, lambda: 0.7}
calibrate: svc
rules:
  - {match: a, keep: base}
  - {match: b, calibrate: none}
  - {match: c, parameters: {weight: 0.9}}
  - {match: d, merge_method: linear}
  - {match: [e, f], calibrate: {method: svc, alpha: 1.0}}
"""
    ).rules
    assert found[0] == KeepChoice(0)
    plain = {"weight": [0.3, 0.5], "normalize": False, "lambda": 0.7}
    half = {"method": "svc", "alpha": 0.5, "side": "left"}
    assert [(c.method, c.parameters, c.calibration) for c in found if isinstance(c, MergeChoice)] == [
        ("task_arithmetic", plain, None),
        ("task_arithmetic", {**plain, "weight": [0.9, 0.9]}, half),
        ("linear", {"weight": [0.3, 0.5], "normalize": True, "base_weight": 0.0}, half),
        ("task_arithmetic", plain, {**half, "alpha": 1.0}),
    ]


def linear(models: str, **keys: Any) -> ResolvedRecipe:
    return resolved(yaml.safe_dump({"merge_method": "linear", **keys}) + f"models: {models}")


def test_the_base_takes_part_in_linear_when_it_is_listed() -> None:
    found = linear("[{model: base, parameters: {weight: 2}}, {model: one}]", base_model="base")
    assert locations(found) == ["/recipes/base", "/recipes/one"]
    assert found.results[0].default.parameters == {"weight": [1.0], "normalize": True, "base_weight": 2.0}


def test_the_base_takes_no_part_in_linear_when_it_is_not_listed() -> None:
    assert linear("[{model: one}]", base_model="base").results[0].default.parameters["base_weight"] == 0.0


def test_linear_does_without_a_base() -> None:
    found = linear("[{model: one, parameters: {weight: 3}}, {model: two}]")
    assert locations(found) == ["/recipes/one", "/recipes/two"]
    assert found.results[0].default.parameters == {"weight": [1.0], "normalize": True, "base_weight": 3.0}


@pytest.mark.parametrize(
    "text",
    [
        "{model: one, parameters: {weight: 0}}, {model: two, parameters: {weight: 0}}",
        "{model: one, parameters: {weight: 1}}, {model: two, parameters: {weight: -1}}",
    ],
)
def test_weights_that_add_up_to_nothing_cannot_be_normalized(text: str) -> None:
    recipe = f"base_model: base\nmerge_method: task_arithmetic\nmodels: [{text}]\n"
    assert chosen(recipe).default.parameters["normalize"] is False
    message = refused(recipe + "parameters: {normalize: true}")
    assert "r.yaml:3 (models): task_arithmetic: the weights add up to zero" in message
    assert "normalize: false" in message
