"""Messages say where a key stands."""

from __future__ import annotations

from dataclasses import replace

import pytest

from svc_dist.recipe.origin import Origin, nearest

ORIGIN = Origin("r.yaml", {("rules",): 3, ("rules", 0): 4, ("outputs", 1, "lambda"): 8, ("outputs", 1, "calibrate"): 9})


@pytest.mark.parametrize(
    ("path", "where"),
    [
        (("rules", 0), "r.yaml:4 (rules[0])"),
        (("rules", 0, "match", 2), "r.yaml:4 (rules[0].match[2])"),
        (("rules", 7, "keep"), "r.yaml:3 (rules[7].keep)"),
        (("dtype",), "r.yaml (dtype)"),
        ((), "r.yaml"),
    ],
)
def test_a_key_is_on_its_line_or_that_of_the_nearest_key_around_it(path: tuple[str | int, ...], where: str) -> None:
    assert ORIGIN.at(*path) == where


def test_a_key_that_an_entry_of_outputs_overrides_is_named_there() -> None:
    origin = replace(ORIGIN, overlay=("outputs", 1))
    assert origin.at("calibrate", "alpha") == "r.yaml:9 (outputs[1].calibrate.alpha)"
    assert origin.at("parameters", "lambda") == "r.yaml:8 (outputs[1].lambda)"
    assert origin.at("rules", 0) == ORIGIN.at("rules", 0)
    assert origin.at("dtype") == ORIGIN.at("dtype")


def test_an_unknown_name_is_answered_with_the_nearest_one_or_all() -> None:
    assert nearest("calibrat", ["calibrate", "rules"]) == "did you mean 'calibrate'?"
    assert nearest("zzz", ["calibrate", "rules"]) == "known: calibrate, rules"
    assert nearest("zzz", []) == "known: none"
