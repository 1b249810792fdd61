"""Which units come first on a process that reads ahead, and how few of them wait there at the end."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from svc_dist.plan.make import ShardFile
from svc_dist.plan.model import Plan, Result, Unit
from svc_dist.plan.settings import Settings
from svc_dist.run.placement import Node
from svc_dist.run.schedule import Capacity, Done, Instruction, RunUnit, Schedule

MIB = 1 << 20


def plan_of(*units: tuple[float, int], device: str = "cpu") -> Plan:
    """A plan of units of (flops, bytes to read), each kind of them with another need of memory."""
    made = tuple(
        Unit(f"u{number:03d}", 0, 0, 1, (), size, 0, flops, 1 + size) for number, (flops, size) in enumerate(units)
    )
    shards = (ShardFile("s", 1),)
    return Plan("f", {}, Settings(device=device), (), (Result("", ()),), shards, (), (), made, (), {})


def processes(count: int, slots: int = 2, ahead: int = 4) -> dict[str, Node]:
    return {f"p{number}": Node(slots, 1 << 40, ahead=ahead) for number in range(count)}


def where(instructions: list[Instruction]) -> list[tuple[str, str]]:
    """Units with their nodes, in the order in which they start."""
    return [(item.unit, item.booking.node) for item in instructions if isinstance(item, RunUnit) and item.booking]


LARGE, SMALL, QUICK = (9e12, 900 * MIB), (2e12, 100 * MIB), (1e6, MIB)


def test_each_process_begins_with_small_inputs_and_reads_the_largest_behind_them() -> None:
    schedule = Schedule(plan_of(*[LARGE] * 8, *[SMALL] * 9, *[QUICK] * 9), processes(2))
    assert where(schedule.start())[:8] == [
        ("u008", "p0"), ("u009", "p1"), ("u010", "p0"), ("u011", "p1"),
        ("u000", "p0"), ("u001", "p1"), ("u002", "p0"), ("u003", "p1"),
    ]  # fmt: skip


def test_a_process_that_comes_later_begins_like_that_and_nobody_does_so_twice() -> None:
    schedule = Schedule(plan_of(*[LARGE] * 20, *[SMALL] * 9), processes(1))
    assert [unit for unit, _ in where(schedule.start())][:3] == ["u020", "u021", "u000"]
    later = where(schedule.handle(Capacity(processes(2))))
    assert later[:3] == [("u022", "p1"), ("u023", "p1"), ("u004", "p1")]
    assert where(schedule.handle(Done(RunUnit("u020")))) == [("u008", "p0")]
    assert where(schedule.handle(Capacity(processes(2)))) == []


def test_nodes_without_reading_ahead_take_most_work_first() -> None:
    schedule = Schedule(plan_of(LARGE, SMALL, SMALL), processes(1, slots=1, ahead=0))
    assert where(schedule.start()) == [("u000", "p0")]


def test_a_cap_holds_for_the_first_units_too() -> None:
    schedule = Schedule(plan_of(*[LARGE] * 8, *[SMALL] * 9), processes(4), slots=3)
    assert len(schedule.start()) == 3


def test_no_unit_waits_behind_others_while_another_process_could_take_it() -> None:
    """Four processes and eight equal units: two each, although each process could read six ahead."""
    schedule = Schedule(plan_of(*[SMALL] * 8), processes(4))
    assert Counter(node for _, node in where(schedule.start())) == {f"p{number}": 2 for number in range(4)}


def test_a_process_with_a_large_unit_takes_nothing_more_when_that_is_its_share() -> None:
    schedule = Schedule(plan_of(LARGE, *[SMALL] * 4), processes(2, slots=1))
    started = where(schedule.start())
    assert Counter(node for unit, node in started if unit != "u000") in ({"p0": 1, "p1": 3}, {"p0": 3, "p1": 1})


def test_a_single_process_reads_ahead_to_the_end() -> None:
    schedule = Schedule(plan_of(*[SMALL] * 9, LARGE), processes(1))
    flying = [unit for unit, _ in where(schedule.start())]
    waiting = 10 - len(flying)
    while waiting:
        assert len(flying) == 6
        new = where(schedule.handle(Done(RunUnit(flying.pop(0)))))
        flying += [unit for unit, _ in new]
        waiting -= len(new)


@pytest.mark.parametrize("seed", range(20))
def test_whatever_ends_when_every_unit_starts_once_and_no_process_is_idle_while_units_wait(seed: int) -> None:
    rng = random.Random(seed)
    kinds = [(LARGE, SMALL, QUICK)[rng.randrange(3)] for _ in range(60)]
    schedule = Schedule(plan_of(*kinds), processes(5))
    flying = dict(where(schedule.start()))
    started = list(flying)
    while flying:
        if schedule.waiting:
            assert set(flying.values()) == {f"p{number}" for number in range(5)}
        unit = rng.choice(list(flying))
        del flying[unit]
        new = dict(where(schedule.handle(Done(RunUnit(unit)))))
        started += new
        flying |= new
    assert sorted(started) == [f"u{number:03d}" for number in range(60)]


def test_units_that_need_no_device_do_not_count_as_the_share_of_devices() -> None:
    plan = plan_of(*[SMALL] * 12, device="cuda")
    nodes = {name: Node(2, 1 << 40, 1 << 40, ahead=4) for name in "ab"} | {"cores": Node(4, 1 << 40)}
    assert Counter(node for _, node in where(Schedule(plan, nodes).start())) == {"a": 6, "b": 6}
