"""``search`` in recipes: its forms, and what is refused with its line."""

from __future__ import annotations

import pytest

from tests.support.recipes import MINIMAL, refused, resolved


def test_a_range_is_a_list_of_two_numbers() -> None:
    axes = resolved(MINIMAL + "search:\n  lambda: [0.2, 1.0]\n  alpha: {grid: [0.5, 1]}\n").search
    assert axes["lambda"].range == [0.2, 1.0]
    assert axes["alpha"].grid == [0.5, 1]


def test_it_is_no_part_of_what_is_merged() -> None:
    assert resolved(MINIMAL + "search: {lambda: [0.2, 1.0]}\n") == resolved(MINIMAL)


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("[0.2, 0.5, 1.0]", "a range is [lowest, highest]"),
        ("[1.0, 0.2]", "a range is [lowest, highest]"),
        ("{range: [0, 1], log: true}", "must be above 0"),
        ("{range: [0, 1], grid: [1]}", "one of range and grid"),
        ("{log: true}", "one of range and grid"),
        ("{grid: []}", "at least one value"),
        ("{grid: [1], steps: 3}", "neither log nor steps"),
        ("{range: [0, 1], layers: 3, filters: [mlp]}", "one of layers and filters"),
        ("{rang: [0, 1]}", "unknown key 'rang'; did you mean 'range'?"),
    ],
)
def test_what_is_refused(written: str, message: str) -> None:
    text = refused(MINIMAL + f"search:\n  lambda: {written}\n")
    assert message in text
    assert "r.yaml:8 (search.lambda" in text
