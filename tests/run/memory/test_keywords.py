"""Keywords of the Python functions. Those of ``svc_dist.run.memory.deltas`` are tested in tests/api/test_tensors.py."""

from __future__ import annotations

import pytest

from svc_dist.errors import RecipeError
from svc_dist.methods.registry import METHODS
from svc_dist.run.memory.keywords import complete_calibration, complete_parameters, recipe_data


def test_a_list_has_a_value_for_each_expert() -> None:
    parameters = complete_parameters(METHODS["task_arithmetic"], {"weight": [0.3, 0.5], "lambda_": 2.0}, 2)
    assert parameters == {"weight": [0.3, 0.5], "normalize": False, "lambda": 2.0}
    data = recipe_data(["one", "two"], "ties", "svc", None, {"weight": (0.3, 0.5), "density": 0.2})
    assert [entry["parameters"] for entry in data["models"]] == [
        {"weight": 0.3, "density": 0.2},
        {"weight": 0.5, "density": 0.2},
    ]
    assert data["parameters"] == {}
    assert data["calibrate"] == "svc"


def test_a_calibration_is_a_name_or_settings() -> None:
    assert complete_calibration(None, 2) is None
    assert complete_calibration({"method": "none"}, 2) is None
    assert complete_calibration("svc", 2) == complete_calibration({"method": "svc"}, 2)
    assert complete_calibration(["svc"], 2) == complete_calibration("svc", 2)
    both = complete_calibration(["svc", {"method": "magic", "limit": "amplify"}], 2)
    assert both is not None
    assert [one["method"] for one in both["steps"]] == ["svc", "magic"]
    with pytest.raises(RecipeError, match="calibrate is 3"):
        complete_calibration(3, 2)
