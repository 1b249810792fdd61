"""Parameters are completed by one function, and results that share a decomposition come from one call."""

from __future__ import annotations

from typing import Any

import pytest

from svc_dist.errors import RecipeError
from svc_dist.methods import method
from svc_dist.methods.parameters import Deferred
from svc_dist.methods.registry import CALIBRATIONS, METHODS


def test_an_experts_setting_comes_before_that_for_all() -> None:
    values = METHODS["linear"].complete(3, {"weight": 2}, [{}, {"weight": 0.5}, {}], base={"weight": 4})
    assert values == {"weight": [2.0, 0.5, 2.0], "normalize": True, "base_weight": 4.0}
    assert METHODS["linear"].complete(2, {})["base_weight"] == 0


def test_a_deferred_setting_stays_and_leaves_the_check_of_the_whole_to_later() -> None:
    later = Deferred()
    values = METHODS["della"].complete(2, {"density": 0.9}, [{}, {"epsilon": later}])
    assert values["epsilon"] == [0.15, later]
    with pytest.raises(RecipeError, match=r"della: density 0\.9 with epsilon 0\.15"):
        METHODS["della"].complete(2, {"density": 0.9})


@pytest.mark.parametrize(
    ("given", "said"), [({"densty": 1}, "ties takes no parameter 'densty'"), ({"density": 2}, "density is 2, but must")]
)
def test_what_a_method_does_not_take_is_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        METHODS["ties"].complete(2, given)


def test_a_calibrations_default_depends_on_the_number_of_experts() -> None:
    assert CALIBRATIONS["svc"].complete({}, 4) == {"method": "svc", "alpha": 0.25, "side": "left"}
    assert CALIBRATIONS["svc"].complete({"alpha": None}, 2)["alpha"] == 0.5
    with pytest.raises(RecipeError, match=r"calibrate\.beta: svc takes no parameter 'beta'; known: alpha, side"):
        CALIBRATIONS["svc"].complete({"beta": 1}, 2)


def test_sets_that_differ_in_one_parameter_are_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[dict[str, Any]] = []

    def compute(*, time: list[float], init: str) -> list[str]:
        calls.append({"time": time, "init": init})
        return [f"{init} {value}" for value in time]

    monkeypatch.setattr(method, "load", lambda _: compute)
    sets = [{"time": 1, "init": "a"}, {"time": 2, "init": "b"}, {"time": 3, "init": "a"}, {"time": 1, "init": "a"}]
    found = list(method.results("", "time", sets))
    assert found == [([0, 3], "a 1"), ([2], "a 3"), ([1], "b 2")]
    assert calls == [{"time": [1, 3], "init": "a"}, {"time": [2], "init": "b"}]
