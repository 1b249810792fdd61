"""Calibrations in recipes: one, or several in order."""

from __future__ import annotations

import pytest

from svc_dist.recipe.choices import MergeChoice
from tests.support.recipes import MINIMAL, chosen, refused, resolved

SVC = {"method": "svc", "alpha": 0.5, "side": "left"}
MAGIC = {"method": "magic", "limit": "none"}


def both(*steps: dict[str, object]) -> dict[str, object]:
    return {"method": ", then ".join(str(one["method"]) for one in steps), "steps": list(steps)}


@pytest.mark.parametrize(
    ("calibrate", "expected"),
    [
        ("[svc, magic]", both(SVC, MAGIC)),
        ("[{method: magic, limit: suppress}, svc]", both({**MAGIC, "limit": "suppress"}, SVC)),
        ("[svc]", SVC),
        ("\n  - method: svc\n    alpha: 1\n  - magic", both({**SVC, "alpha": 1.0}, MAGIC)),
    ],
)
def test_a_list_is_completed_in_order(calibrate: str, expected: object) -> None:
    assert chosen(MINIMAL + f"calibrate: {calibrate}").default.calibration == expected


def test_a_rule_takes_the_recipes_list_or_has_its_own() -> None:
    rules = (
        "rules: [{match: a, parameters: {weight: 1}}, {match: b, calibrate: [magic, svc]}, {match: c, calibrate: none}]"
    )
    found = chosen(MINIMAL + f"calibrate: [svc, magic]\n{rules}\n").rules
    assert all(isinstance(one, MergeChoice) for one in found)
    assert [one.calibration for one in found if isinstance(one, MergeChoice)] == [
        both(SVC, MAGIC),
        both(MAGIC, SVC),
        None,
    ]


def test_keys_of_an_output_go_to_the_calibrations_that_take_them() -> None:
    outputs = (
        "outputs: [{path: a, calibrate: {alpha: 0.7}}, {path: b, calibrate: {limit: amplify}}, "
        "{path: c, calibrate: svc}, {path: d, calibrate: [magic]}, {grid: {calibrate.alpha: [0.1, 0.2]}}]"
    )
    recipe = resolved(MINIMAL + f"calibrate: [svc, magic]\n{outputs}\n")
    assert [one.default.calibration for one in recipe.results] == [
        both({**SVC, "alpha": 0.7}, MAGIC),
        both(SVC, {**MAGIC, "limit": "amplify"}),
        SVC,
        MAGIC,
        both({**SVC, "alpha": 0.1}, MAGIC),
        both({**SVC, "alpha": 0.2}, MAGIC),
    ]


@pytest.mark.parametrize(
    ("calibrate", "message"),
    [
        ("[]", "r.yaml:7 (calibrate): the list is empty"),
        ("[svc, none]", "r.yaml:7 (calibrate[1]): there is no calibration 'none'"),
        ("[svc, {limit: amplify}]", "r.yaml:7 (calibrate[1]): the key 'method' is missing"),
        (
            "\n  - svc\n  - method: magic\n    alpha: 1",
            "r.yaml:10 (calibrate[1].alpha): magic takes no parameter 'alpha'",
        ),
        ("[{method: magic, limit: both}]", "r.yaml:7 (calibrate[0].limit): magic: limit is 'both', but must be one of"),
        ("[svc, magic]\noutputs: [{path: a, calibrate: {alfa: 1}}]", "svc takes no parameter 'alfa'"),
    ],
)
def test_a_wrong_entry_is_named_with_its_line(calibrate: str, message: str) -> None:
    assert message in str(refused(MINIMAL + f"calibrate: {calibrate}"))


@pytest.mark.parametrize("calibrate", ["3", "[3]", "[[svc]]"])
def test_what_is_neither_a_name_nor_a_mapping_is_refused(calibrate: str) -> None:
    assert "calibrate" in str(refused(MINIMAL + f"calibrate: {calibrate}"))
