"""Experts in codes are warned of where a method looks for something in their deltas that rounding hides."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import svc_dist
from svc_dist.errors import warning_code
from tests.plan.quantised.test_merges import SHAPES, recipe, write_models
from tests.support.adapters import config, lora, write_adapter

SVC: dict[str, Any] = {"merge_method": "task_arithmetic", "calibrate": "svc"}
SUM: dict[str, Any] = {"merge_method": "task_arithmetic"}
SWUDI: dict[str, Any] = {"merge_method": "swudi"}
TIES: dict[str, Any] = {"merge_method": "ties", "parameters": {"density": 0.5}}
KEEP: dict[str, Any] = {"match": "*_proj.weight", "keep": "base"}


def warnings(data: dict[str, Any]) -> list[str]:
    found = svc_dist.make_plan(data | {"quantization": "none"}).warnings
    return [one for one in found if warning_code(one) == "quantised-experts"]


@pytest.mark.parametrize("keys", [SVC, SWUDI])
@pytest.mark.parametrize("base", ["fp8 blocks", None])
def test_spectral_methods_and_calibrations_on_experts_in_fp8(
    base: str | None, keys: dict[str, Any], tmp_path: Path
) -> None:
    stored, _ = write_models(tmp_path, [base, "fp8 blocks", "fp8 blocks"])
    (warning,) = warnings(recipe(stored, **keys))
    assert f"{stored[1]}, {stored[2]} are stored in FP8 in blocks of 16 x 32" in warning
    assert str(stored[0]) not in warning
    assert f"what {'swudi' if keys is SWUDI else 'task_arithmetic with svc'} must find" in warning
    assert "in FP8, SVC on the sum lost 8.1 points, SWUDI 12.0" in warning
    assert "take swudi" in warning


@pytest.mark.parametrize(
    ("family", "label"),
    [
        ("int4", "INT4 in groups of 32"),
        ("mxfp4", "MXFP4"),
        ("nvfp4", "NVFP4"),
    ],
)
@pytest.mark.parametrize("keys", [SVC, SWUDI, TIES])
def test_whatever_is_no_plain_sum_on_experts_in_four_bits(
    family: str, label: str, keys: dict[str, Any], tmp_path: Path
) -> None:
    stored, _ = write_models(tmp_path, [None, family])
    (warning,) = warnings(recipe(stored, **keys))
    assert f"{stored[1]} is stored in {label}, whose rounding" in warning
    assert "in INT4, SVC on the sum lost 14.8 points, SWUDI 28.8 and the plain sum 3.5" in warning
    assert "take task_arithmetic without calibrate" in warning


@pytest.mark.parametrize("family", ["fp8 channels", "mxfp8"])
def test_a_method_that_picks_entries_is_not_warned_of_in_eight_bits(family: str, tmp_path: Path) -> None:
    stored, _ = write_models(tmp_path, [family, family])
    assert not warnings(recipe(stored, **TIES))
    assert len(warnings(recipe(stored, **SVC))) == 1


@pytest.mark.parametrize("keys", [SUM, {"merge_method": "linear"}, {"merge_method": "slerp", "parameters": {"t": 0.5}}])
def test_plain_sums_and_averages_are_never_warned_of(keys: dict[str, Any], tmp_path: Path) -> None:
    stored, _ = write_models(tmp_path, [None, "int4"])
    assert not warnings(recipe(stored, **keys))


@pytest.mark.parametrize("keys", [SVC, SWUDI, TIES])
def test_a_base_in_codes_is_not_warned_of_beside_experts_in_bfloat16(keys: dict[str, Any], tmp_path: Path) -> None:
    stored, _ = write_models(tmp_path, ["int4", None, None])
    assert not warnings(recipe(stored, **keys))


def test_only_the_experts_in_codes_are_named_with_all_their_formats(tmp_path: Path) -> None:
    stored, _ = write_models(tmp_path, [None, "fp8 blocks", None, "int4"])
    (warning,) = warnings(recipe(stored, **SVC))
    assert f"{stored[1]}, {stored[3]} are stored in FP8 in blocks of 16 x 32 and INT4 in groups of 32" in warning
    assert str(stored[2]) not in warning
    assert "in INT4, SVC" in warning


@pytest.mark.parametrize("rule", [KEEP, {"match": "*_proj.weight", "calibrate": "none"}])
def test_codes_that_are_copied_or_summed_are_not_warned_of(rule: dict[str, Any], tmp_path: Path) -> None:
    stored, _ = write_models(tmp_path, ["int4", "int4", "int4"])
    assert warnings(recipe(stored, **SVC))
    assert not warnings(recipe(stored, **SVC, rules=[rule]))


def test_a_rule_that_calibrates_one_of_the_tensors_in_codes_is_enough(tmp_path: Path) -> None:
    stored, _ = write_models(tmp_path, [None, "fp8 blocks"])
    (warning,) = warnings(recipe(stored, **SUM, rules=[{"match": "*q_proj.weight", "merge_method": "tsv_m"}]))
    assert "what tsv_m must find" in warning


def test_an_adapter_over_a_base_in_codes_is_not_warned_of(tmp_path: Path) -> None:
    stored, _ = write_models(tmp_path, ["int4", "int4"])
    modules = {name.removesuffix(".weight"): SHAPES[name] for name in SHAPES if name.endswith("q_proj.weight")}
    adapter = write_adapter(tmp_path / "adapter", lora(modules), config())
    (warning,) = warnings(recipe([stored[0], stored[1], adapter], **SVC))
    assert str(adapter) not in warning
    assert not warnings(recipe([stored[0], adapter], **SVC))
