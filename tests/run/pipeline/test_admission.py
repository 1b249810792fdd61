"""First come, first served, within a limit."""

from __future__ import annotations

import random

import pytest

from svc_dist.run.pipeline.admission import Admission


def test_units_enter_in_order_while_there_is_room() -> None:
    stage = Admission(10)
    assert stage.ask("a", 4) == ["a"]
    assert stage.ask("b", 6) == ["b"]
    assert stage.ask("c", 1) == []
    assert stage.leave("a") == ["c"]


def test_nobody_overtakes_the_one_that_waits_longest() -> None:
    stage = Admission(10)
    stage.ask("a", 8)
    assert stage.ask("large", 9) == []
    assert stage.ask("small", 1) == []
    assert stage.leave("a") == ["large", "small"]


def test_a_unit_larger_than_the_limit_enters_alone() -> None:
    stage = Admission(10)
    stage.ask("a", 1)
    assert stage.ask("huge", 50) == []
    assert stage.leave("a") == ["huge"]
    assert stage.ask("b", 1) == []
    assert stage.leave("huge") == ["b"]


def test_one_that_stops_waiting_lets_the_next_one_in() -> None:
    stage = Admission(10)
    stage.ask("a", 5)
    stage.ask("large", 9)
    stage.ask("small", 5)
    assert stage.leave("large") == ["small"]


def test_leaving_twice_changes_nothing() -> None:
    stage = Admission(2)
    stage.ask("a", 1)
    stage.ask("b", 1)
    stage.ask("c", 1)
    assert stage.leave("a") == ["c"]
    assert stage.leave("a") == []
    assert stage.used == 2


@pytest.mark.parametrize("seed", range(10))
def test_the_limit_holds_and_everyone_enters_in_order(seed: int) -> None:
    chance = random.Random(seed)
    stage, sizes = Admission(20), {number: chance.randrange(1, 30) for number in range(200)}
    entered: list[object] = []
    inside: list[object] = []
    left = list(sizes)
    while left or inside:
        if left and chance.random() < 0.5:
            unit = left.pop(0)
            new = stage.ask(unit, sizes[unit])
        elif inside:
            new = stage.leave(inside.pop(chance.randrange(len(inside))))
        else:
            continue
        entered += new
        inside += new
        assert len(inside) == 1 or sum(sizes[unit] for unit in inside) <= 20  # type: ignore[index]
    assert entered == list(sizes)
