"""Settings validate themselves, and a request takes what it leaves open from the recorded run or the defaults."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import pytest

from svc_dist.errors import RecipeError
from svc_dist.plan.settings import Settings, SettingsRequest

WRONG: list[tuple[dict[str, Any], str]] = [
    (
        {"precision": "flot64"},
        "precision is 'flot64', but must be one of mixed, fast, float64\n  did you mean 'float64'",
    ),
    ({"threads_per_unit": 0}, "threads_per_unit is 0, but must be a whole number, at least 1"),
    ({"device": "gpu"}, "device is 'gpu', but must be one of"),
]


@pytest.mark.parametrize("kind", [Settings, SettingsRequest])
@pytest.mark.parametrize(("values", "said"), WRONG)
def test_a_wrong_value_is_refused_with_the_allowed_ones(kind: Any, values: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        kind(**values)


def test_complete_settings_name_a_device() -> None:
    with pytest.raises(RecipeError, match="device is 'auto'"):
        Settings(device="auto")


def test_what_is_left_open_comes_from_the_recorded_run_or_the_defaults() -> None:
    recorded = Settings("fast", 3, "cpu")
    assert SettingsRequest().resolve(recorded, lambda: "cuda") == recorded
    assert SettingsRequest().resolve(None, lambda: "cuda") == Settings("mixed", 1, "cuda")
    assert SettingsRequest("float64", device="cuda").resolve(recorded, lambda: "cpu") == Settings("float64", 3, "cuda")


def test_the_kind_of_gpu_is_that_of_the_run_or_of_this_machine_unless_kinds_may_be_mixed() -> None:
    def here() -> tuple[str, str]:
        return "H100", "2.13.0+cu130"

    fixed = Settings("mixed", 1, "cuda", "H100", "2.13.0+cu130")
    assert SettingsRequest().resolve(None, lambda: "cuda", here) == fixed
    assert SettingsRequest().resolve(None, lambda: "cpu", here).gpu == ""
    assert SettingsRequest(mixed_gpus=True).resolve(None, lambda: "cuda", here) == Settings("mixed", 1, "cuda")
    assert SettingsRequest().resolve(fixed, lambda: "cuda", lambda: ("A100", "2.11.0")) == fixed
    assert SettingsRequest(device="cpu").resolve(fixed, lambda: "cuda", here) == Settings()


def test_settings_are_plain_words_in_json() -> None:
    written = json.dumps(asdict(SettingsRequest().resolve(None, lambda: "cpu")))
    assert written == '{"precision": "mixed", "threads_per_unit": 1, "device": "cpu", "gpu": "", "build": ""}'
