"""The schedule is pure: events in, instructions out."""

from __future__ import annotations

import heapq
import random
from collections.abc import Mapping

import pytest

from svc_dist.errors import DamagedInputError, TransientStorageError, UnitsFailedError
from svc_dist.plan.make import ShardFile
from svc_dist.plan.model import Plan, Result, Unit
from svc_dist.plan.settings import Settings
from svc_dist.run.placement import Booking, Need, Node, Placement
from svc_dist.run.schedule import (
    FINISHING,
    Capacity,
    Done,
    Failed,
    FinishShard,
    Instruction,
    Publish,
    RangesLost,
    RunUnit,
    Schedule,
)
from svc_dist.storage.writing.base import LostRangesError


def plan_of(*units: tuple[int, float, int], device: str = "cpu") -> Plan:
    """A plan of (shard, flops, memory) units; nothing else of it matters to the schedule."""
    shards = max(shard for shard, _, _ in units) + 1
    return Plan(
        fingerprint="f",
        recipe={},
        settings=Settings(device=device),
        models=(),
        results=(Result("", ()),),
        shards=tuple(ShardFile(f"s{number}", 1) for number in range(shards)),
        tensors=(),
        not_written=(),
        units=tuple(
            Unit(f"u{n}", shard, 0, 1, (), 0, 0, flops, memory) for n, (shard, flops, memory) in enumerate(units)
        ),
        warnings=(),
        methods={},
    )


def one(slots: int, memory: int) -> dict[str, Node]:
    """One node."""
    return {"a": Node(slots, memory)}


def placed(instructions: list[Instruction]) -> dict[str, str]:
    """The node of each unit."""
    return {item.unit: item.booking.node for item in instructions if isinstance(item, RunUnit) and item.booking}


def run_all(schedule: Schedule, order: random.Random) -> list[Instruction]:
    """Carry everything out, in any order of completion; what was started, in order."""
    pending = schedule.start()
    started = list(pending)
    while pending:
        instruction = pending.pop(order.randrange(len(pending)))
        new = schedule.handle(Done(instruction))
        started += new
        pending += new
    return started


def test_most_work_first() -> None:
    schedule = Schedule(plan_of((0, 1, 1), (0, 9, 1), (0, 5, 1)), one(2, 100))
    assert schedule.start() == [RunUnit("u1"), RunUnit("u2")]


def test_never_more_units_in_flight_than_slots() -> None:
    schedule = Schedule(plan_of(*((0, i, 1) for i in range(9))), one(3, 100))
    assert len(schedule.start()) == 3
    assert schedule.handle(Done(RunUnit("u8"))) == [RunUnit("u5")]


def test_the_memory_budget_holds_units_back() -> None:
    schedule = Schedule(plan_of((0, 3, 60), (0, 2, 60), (0, 1, 10)), one(3, 100))
    assert schedule.start() == [RunUnit("u0")]
    assert schedule.handle(Done(RunUnit("u0"))) == [RunUnit("u1"), RunUnit("u2")]


def test_a_unit_larger_than_the_budget_is_let_through_alone() -> None:
    schedule = Schedule(plan_of((0, 2, 500), (0, 1, 1)), one(2, 100))
    assert schedule.start() == [RunUnit("u0")]
    assert schedule.handle(Done(RunUnit("u0"))) == [RunUnit("u1")]


@pytest.mark.parametrize("seed", range(20))
def test_whatever_the_order_every_unit_runs_once_then_its_shard_then_the_publishing(seed: int) -> None:
    plan = plan_of(*((n % 4, n * 7 % 5, 10) for n in range(23)))
    schedule = Schedule(plan, one(4, 25))
    started = run_all(schedule, random.Random(seed))
    assert sorted(item.unit for item in started if isinstance(item, RunUnit)) == sorted(u.id for u in plan.units)
    for shard in range(4):
        last = max(started.index(RunUnit(unit.id)) for unit in plan.units if unit.shard == shard)
        assert started.index(FinishShard(shard)) > last
    assert started[-1] == Publish()
    assert started.count(Publish()) == 1
    assert schedule.over
    assert schedule.published


def test_a_resume_runs_only_what_has_no_receipt() -> None:
    schedule = Schedule(plan_of((0, 1, 1), (0, 2, 1), (1, 3, 1)), one(9, 9), done={"u0", "u2"})
    assert schedule.start() == [FinishShard(1), RunUnit("u1")]


def test_a_resume_finishes_a_few_shards_at_a_time() -> None:
    units = [(shard, 1, 1) for shard in range(20)]
    schedule = Schedule(plan_of(*units), one(9, 9), done={f"u{number}" for number in range(20)})
    first = schedule.start()
    assert first == [FinishShard(shard) for shard in range(FINISHING)]
    assert schedule.handle(Done(first[1])) == [FinishShard(FINISHING)]
    assert sum(isinstance(item, FinishShard) for item in schedule.in_flight) == FINISHING


def test_a_resume_after_the_last_shard_only_publishes() -> None:
    schedule = Schedule(plan_of((0, 1, 1)), one(1, 9), done={"u0"}, finished={0})
    assert schedule.start() == [Publish()]


def test_a_transient_failure_is_tried_again_a_capped_number_of_times() -> None:
    schedule = Schedule(plan_of((0, 1, 1)), one(1, 9), max_attempts=3)
    assert schedule.start() == [RunUnit("u0")]
    timeout = Failed(RunUnit("u0"), TransientStorageError("timeout"))
    assert schedule.handle(timeout) == [RunUnit("u0")]
    assert schedule.handle(timeout) == [RunUnit("u0")]
    assert schedule.handle(timeout) == []
    assert schedule.over
    assert list(schedule.failures) == ["unit u0"]
    assert schedule.retries == 2


def test_a_lost_worker_costs_an_attempt_not_the_run() -> None:
    schedule = Schedule(plan_of((0, 1, 1)), one(1, 9))
    schedule.start()
    assert schedule.handle(Failed(RunUnit("u0"), DamagedInputError("?"), lost=True)) == [RunUnit("u0")]


def test_a_failure_for_good_stops_new_work_and_lets_the_rest_finish() -> None:
    schedule = Schedule(plan_of(*((0, 9 - n, 1) for n in range(5))), one(2, 9))
    assert schedule.start() == [RunUnit("u0"), RunUnit("u1")]
    assert schedule.handle(Failed(RunUnit("u0"), DamagedInputError("NaN"))) == []
    assert not schedule.over
    assert schedule.handle(Done(RunUnit("u1"))) == []
    assert schedule.over
    assert not schedule.published


def test_draining_starts_nothing_more() -> None:
    schedule = Schedule(plan_of((0, 2, 1), (0, 1, 1)), one(1, 9))
    schedule.start()
    schedule.draining = True
    assert schedule.handle(Done(RunUnit("u0"))) == []
    assert schedule.over


def test_an_answer_from_an_abandoned_attempt_changes_nothing() -> None:
    schedule = Schedule(plan_of((0, 1, 1)), one(1, 9))
    schedule.start()
    schedule.handle(Done(RunUnit("u0")))
    assert schedule.handle(Failed(RunUnit("u0"), DamagedInputError("late"), lost=True)) == []
    assert not schedule.failures


def test_each_node_keeps_to_its_own_memory() -> None:
    """Two nodes of 100 bytes are not one of 200."""
    schedule = Schedule(plan_of((0, 3, 70), (0, 2, 70), (0, 1, 70)), {"a": Node(4, 100), "b": Node(4, 100)})
    assert placed(schedule.start()) == {"u0": "a", "u1": "b"}
    assert placed(schedule.handle(Done(RunUnit("u1")))) == {"u2": "b"}


def test_a_large_unit_goes_to_the_node_that_it_fits() -> None:
    schedule = Schedule(plan_of((0, 1, 70), (0, 2, 20)), {"small": Node(2, 50), "large": Node(1, 100)}, slots=9)
    assert placed(schedule.start())["u0"] == "large"


def test_the_node_that_a_waiting_unit_needs_is_kept_free_and_others_are_filled() -> None:
    nodes = {"large": Node(3, 100), "small": Node(2, 20)}
    schedule = Schedule(plan_of((0, 9, 60), (0, 8, 60), *((0, 7.0 - n, 10) for n in range(4))), nodes)
    assert placed(schedule.start()) == {"u0": "large", "u2": "small", "u3": "small"}
    assert placed(schedule.handle(Done(RunUnit("u0")))) == {"u1": "large", "u4": "large", "u5": "large"}


def test_the_cap_on_slots_counts_all_nodes() -> None:
    schedule = Schedule(plan_of(*((0, 1, 1) for _ in range(9))), {"a": Node(4, 9), "b": Node(4, 9)}, slots=3)
    assert len(schedule.start()) == 3


def test_a_node_that_joins_takes_units_at_once() -> None:
    schedule = Schedule(plan_of((0, 2, 1), (0, 1, 1)), {})
    assert schedule.start() == []
    assert not schedule.over
    assert placed(schedule.handle(Capacity(one(1, 9)))) == {"u0": "a"}
    assert placed(schedule.handle(Capacity({"a": Node(1, 9), "b": Node(1, 9)}))) == {"u1": "b"}


def test_a_node_that_left_takes_no_more_units_and_those_lost_there_go_elsewhere() -> None:
    schedule = Schedule(plan_of((0, 3, 1), (0, 2, 1), (0, 1, 1)), {"a": Node(1, 9), "b": Node(1, 9)})
    assert placed(schedule.start()) == {"u0": "a", "u1": "b"}
    assert schedule.handle(Capacity(one(1, 9))) == []
    assert schedule.handle(Failed(RunUnit("u1"), UnitsFailedError("gone"), lost=True)) == []
    assert placed(schedule.handle(Done(RunUnit("u0")))) == {"u1": "a"}


def test_a_lost_unit_is_tried_on_another_node_even_if_it_has_to_wait() -> None:
    schedule = Schedule(plan_of((0, 3, 1), (0, 2, 1), (0, 1, 1)), {"a": Node(1, 9), "b": Node(1, 9)})
    schedule.start()
    assert placed(schedule.handle(Failed(RunUnit("u0"), UnitsFailedError("crash"), lost=True))) == {"u2": "a"}
    assert placed(schedule.handle(Done(RunUnit("u1")))) == {"u0": "b"}


def test_a_node_that_does_not_answer_gets_nothing_while_there_are_others() -> None:
    schedule = Schedule(plan_of(*((0, 5.0 - n, 1) for n in range(5))), {"a": Node(2, 9), "b": Node(1, 9)})
    assert placed(schedule.start()) == {"u0": "a", "u1": "b", "u2": "a"}
    assert schedule.handle(Failed(RunUnit("u0"), UnitsFailedError("?"), lost=True, silent=True)) == []
    assert placed(schedule.handle(Done(RunUnit("u2")))) == {"u3": "a", "u4": "a"}, "it answers again"
    assert placed(schedule.handle(Done(RunUnit("u1")))) == {"u0": "b"}


def test_two_units_share_a_device_only_when_both_fit() -> None:
    nodes = {"a": Node(slots=2, memory=1 << 40, device_memory=100)}
    schedule = Schedule(plan_of((0, 3, 60), (0, 2, 50), (0, 1, 50), device="cuda"), nodes)
    assert placed(schedule.start()) == {"u0": "a"}, "alone: the next one would not fit beside it"
    assert placed(schedule.handle(Done(RunUnit("u0")))) == {"u1": "a", "u2": "a"}


def test_a_unit_for_a_large_device_waits_for_one() -> None:
    nodes = {"large": Node(2, 1 << 40, 100), "small": Node(2, 1 << 40, 40)}
    schedule = Schedule(plan_of((0, 3, 60), (0, 2, 60), (0, 1, 20), device="cuda"), nodes)
    assert placed(schedule.start()) == {"u0": "large", "u2": "small"}
    assert placed(schedule.handle(Done(RunUnit("u0")))) == {"u1": "large"}


def test_what_was_killed_every_time_takes_the_path_of_least_memory_in_its_last_attempt() -> None:
    schedule = Schedule(plan_of((0, 1, 1)), one(1, 9))
    kill = Failed(RunUnit("u0"), UnitsFailedError("killed"), lost=True, killed=True)
    (first,), (second,), (third,) = schedule.start(), schedule.handle(kill), schedule.handle(kill)
    assert [item.low_memory for item in (first, second, third) if isinstance(item, RunUnit)] == [False, False, True]


def test_what_failed_for_good_is_known_with_its_node_and_attempts() -> None:
    schedule = Schedule(plan_of((0, 1, 1)), {"a": Node(1, 9, name="host-a")}, max_attempts=2)
    crash = Failed(RunUnit("u0"), UnitsFailedError("crash"), lost=True)
    schedule.start()
    schedule.handle(crash)
    schedule.handle(crash)
    failure = schedule.failures["unit u0"]
    assert (failure.node, failure.attempts, str(failure.error)) == ("host-a", 2, "crash")


@pytest.mark.parametrize("seed", range(30))
def test_whatever_joins_leaves_or_is_lost_no_node_holds_more_than_fits_and_every_unit_is_done(seed: int) -> None:
    rng = random.Random(seed)
    plan = plan_of(*((0, rng.random(), rng.randrange(1, 130)) for _ in range(60)))
    sizes = {name: Node(rng.randrange(1, 4), rng.choice([50, 100])) for name in "abcde"}
    nodes = {name: sizes[name] for name in rng.sample("abcde", 2)}
    schedule = Schedule(plan, nodes, max_attempts=99)
    flying = {item: item for item in schedule.start()}
    done = []
    while not schedule.over:
        if rng.random() < 0.2 or not flying:
            nodes = {name: sizes[name] for name in rng.sample("abcde", rng.randrange(1, 6))}
            new = schedule.handle(Capacity(nodes))
        else:
            item = flying.pop(rng.choice(list(flying)))
            gone = isinstance(item, RunUnit) and item.booking is not None and item.booking.node not in nodes
            if gone or rng.random() < 0.1:
                new = schedule.handle(Failed(item, UnitsFailedError("?"), lost=True, silent=rng.random() < 0.3))
            else:
                done.append(item)
                new = schedule.handle(Done(item))
        flying |= {item: item for item in new}
        for name, node in nodes.items():
            there = [
                item for item in flying if isinstance(item, RunUnit) and item.booking and item.booking.node == name
            ]
            memory = sum(plan.unit[item.unit].memory for item in there)
            assert len(there) <= node.slots
            assert memory <= node.memory or len(there) == 1, "one unit is always let through, alone"
    assert sorted(item.unit for item in done if isinstance(item, RunUnit)) == sorted(plan.unit)
    assert schedule.published


GONE = LostRangesError("2 of 9 pieces are gone")


def test_units_whose_ranges_were_lost_run_again_before_their_shard_is_finished() -> None:
    schedule = Schedule(plan_of((0, 2, 1), (0, 1, 1), (1, 3, 1)), one(9, 9), done={"u0", "u1"})
    assert schedule.start() == [FinishShard(0), RunUnit("u2")]
    again = schedule.handle(RangesLost(FinishShard(0), ("u0", "u1"), GONE))
    assert again == [RunUnit("u0"), RunUnit("u1")]
    assert all(isinstance(item, RunUnit) and item.rewrite for item in again)
    assert schedule.handle(Done(RunUnit("u2"))) == [FinishShard(1)]
    assert schedule.handle(Done(FinishShard(1))) == []
    assert schedule.handle(Done(RunUnit("u1"))) == []
    assert schedule.handle(Done(RunUnit("u0"))) == [FinishShard(0)]
    assert schedule.handle(Done(FinishShard(0))) == [Publish()]
    assert schedule.retries == 2


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_lost_range_is_written_again_with_its_memory_and_device_booked(device: str) -> None:
    nodes = {"a": Node(2, 8 << 30, 100), "b": Node(2, 8 << 30, 100)}
    schedule = Schedule(plan_of((0, 3, 90), (1, 2, 90), (1, 1, 90), device=device), nodes, done={"u0"})
    assert schedule.start() == [FinishShard(0), RunUnit("u1"), RunUnit("u2")]
    again = schedule.handle(RangesLost(FinishShard(0), ("u0",), GONE))
    if device == "cuda":  # each device has a unit that takes it alone
        assert again == []
        again = schedule.handle(Done(RunUnit("u1")))
    (unit,) = again
    assert isinstance(unit, RunUnit)
    assert unit == RunUnit("u0")
    assert unit.booking is not None
    assert unit.booking.memory > 0
    assert unit.booking.slots == (2 if device == "cuda" else 1)


def test_a_shard_that_loses_ranges_again_and_again_fails() -> None:
    schedule = Schedule(plan_of((0, 1, 1)), one(1, 9), done={"u0"}, max_losses=2)
    assert schedule.start() == [FinishShard(0)]
    for _ in range(2):
        assert schedule.handle(RangesLost(FinishShard(0), ("u0",), GONE)) == [RunUnit("u0")]
        assert schedule.handle(Done(RunUnit("u0"))) == [FinishShard(0)]
    assert schedule.handle(RangesLost(FinishShard(0), ("u0",), GONE)) == []
    assert schedule.over
    assert schedule.failures["shard 1"].error is GONE


def test_a_rewritten_unit_has_all_its_attempts() -> None:
    schedule = Schedule(plan_of((0, 1, 1)), one(1, 9), max_attempts=2)
    assert schedule.start() == [RunUnit("u0")]
    assert schedule.handle(Done(RunUnit("u0"))) == [FinishShard(0)]
    assert schedule.handle(RangesLost(FinishShard(0), ("u0",), GONE)) == [RunUnit("u0")]
    timeout = TransientStorageError("timeout")
    assert schedule.handle(Failed(RunUnit("u0"), timeout)) == [RunUnit("u0")]
    assert schedule.handle(Failed(RunUnit("u0"), timeout)) == []
    assert list(schedule.failures) == ["unit u0"]


def test_lost_ranges_of_an_earlier_run_add_no_attempts() -> None:
    schedule = Schedule(plan_of((0, 1, 1)), one(1, 9), done={"u0"}, max_attempts=2)
    assert schedule.start() == [FinishShard(0)]
    assert schedule.handle(RangesLost(FinishShard(0), ("u0",), GONE)) == [RunUnit("u0")]
    timeout = TransientStorageError("timeout")
    assert schedule.handle(Failed(RunUnit("u0"), timeout)) == [RunUnit("u0")]
    assert schedule.handle(Failed(RunUnit("u0"), timeout)) == []
    assert list(schedule.failures) == ["unit u0"]


def test_draining_leaves_lost_ranges_to_the_next_start() -> None:
    schedule = Schedule(plan_of((0, 1, 1)), one(1, 9), done={"u0"})
    schedule.start()
    schedule.draining = True
    assert schedule.handle(RangesLost(FinishShard(0), ("u0",), GONE)) == []
    assert schedule.over


def test_attempts_that_ended_with_their_node_do_not_count() -> None:
    schedule = Schedule(plan_of((0, 1, 1)), {name: Node(1, 9) for name in "abcdefgh"}, max_attempts=2)
    assert len(schedule.start()) == 1
    gone = Failed(RunUnit("u0"), UnitsFailedError("its node went away"), lost=True, uncounted=True)
    for _ in range(5):
        assert schedule.handle(gone) == [RunUnit("u0")]
    died = Failed(RunUnit("u0"), UnitsFailedError("its process was killed"), lost=True, killed=True)
    assert schedule.handle(died) == [RunUnit("u0")]
    assert schedule.handle(died) == []
    assert list(schedule.failures) == ["unit u0"]


def test_a_unit_whose_nodes_always_go_away_fails_in_the_end() -> None:
    schedule = Schedule(plan_of((0, 1, 1)), one(1, 9), max_uncounted=3)
    schedule.start()
    gone = Failed(RunUnit("u0"), UnitsFailedError("its node went away"), lost=True, uncounted=True)
    assert [len(schedule.handle(gone)) for _ in range(3)] == [1, 1, 0]


def test_units_that_read_ahead_come_on_top_of_the_slots_within_the_memory() -> None:
    plan = plan_of(*((0, 9.0 - n, 30) for n in range(9)))
    assert len(Schedule(plan, {"a": Node(2, 1000, ahead=2)}, slots=2).start()) == 4
    assert len(Schedule(plan, {"a": Node(2, 100, ahead=2)}, slots=2).start()) == 3


def test_a_cap_below_the_slots_leaves_no_room_to_read_ahead() -> None:
    schedule = Schedule(plan_of(*((0, 1, 1) for _ in range(9))), {"a": Node(4, 99, ahead=4)}, slots=3)
    assert len(schedule.start()) == 3


def test_units_that_take_a_whole_device_read_ahead_too() -> None:
    node = Node(2, 10**12, device_memory=100, ahead=2)
    schedule = Schedule(plan_of(*((0, 1, 80) for _ in range(9)), device="cuda"), {"a": node})
    assert [item.booking.slots for item in schedule.start() if isinstance(item, RunUnit) and item.booking] == [2, 2]


def test_an_empty_node_takes_a_unit_that_is_too_large_even_where_units_read_ahead() -> None:
    schedule = Schedule(plan_of((0, 2, 500), (0, 1, 1)), {"a": Node(1, 100, ahead=2)})
    assert schedule.start() == [RunUnit("u0")]
    assert schedule.handle(Done(RunUnit("u0"))) == [RunUnit("u1")]


def test_units_that_need_no_device_go_to_cores_and_never_wait_for_one() -> None:
    nodes = {"gpu": Node(2, 10**12, device_memory=100), "cores": Node(1, 10**12)}
    placement = Placement(nodes)
    assert placement.find(Need(5)) == Booking("cores", 5)
    placement.book("light", Booking("cores", 5))
    assert placement.find(Need(5)) is None
    assert placement.find(Need(5, 60)) == Booking("gpu", 5, slots=2)


def test_without_cores_such_units_run_in_the_process_of_a_device() -> None:
    assert Placement({"gpu": Node(2, 10**12, device_memory=100)}).find(Need(5)) == Booking("gpu", 5)


def test_where_units_wait_behind_others_the_one_with_least_work_gets_the_next() -> None:
    nodes = {name: Node(1, 100, ahead=2) for name in "ab"}
    schedule = Schedule(plan_of((0, 9, 1), (0, 4, 1), (0, 3, 1), (0, 1, 1)), nodes)
    assert placed(schedule.start()) == {"u0": "a", "u1": "b", "u2": "b", "u3": "b"}


def busy(schedule: Schedule, nodes: Mapping[str, Node], slower: Mapping[str, float], joins: float = 0.0) -> float:
    """The share of the time that slots of nodes are busy, with units of 1 to 3 s. The last node ``joins`` that late."""
    chance, late = random.Random(0), list(nodes)[-1]
    seconds = {unit.id: chance.uniform(1, 3) for unit in schedule.plan.units}
    queues: dict[str, list[RunUnit]] = {name: [] for name in nodes}
    computing = dict.fromkeys(nodes, 0)
    events: list[tuple[float, str, str, RunUnit | None]] = [(joins, "", late, None)] if joins else []
    now = spent = 0.0

    def send(instructions: list[Instruction]) -> None:
        for item in instructions:
            if isinstance(item, RunUnit) and item.booking is not None:
                queues[item.booking.node].append(item)
            else:
                send(schedule.handle(Done(item)))

    send(schedule.start())
    while True:
        for name, queue in queues.items():
            while queue and computing[name] < nodes[name].slots:
                unit = queue.pop(0)
                computing[name] += 1
                took = seconds[unit.unit] * slower.get(name, 1.0)
                spent += took
                heapq.heappush(events, (now + took, unit.unit, name, unit))
        if not events:
            slots = sum(node.slots for node in nodes.values())
            return spent / (slots * now - nodes[late].slots * joins)
        now, _, name, ended = heapq.heappop(events)
        if ended is None:
            send(schedule.handle(Capacity(nodes)))
        else:
            computing[name] -= 1
            send(schedule.handle(Done(ended)))


@pytest.mark.parametrize("slower", [{}, {"3": 2.0}, {"0": 3.0}, {"1": 1.5, "2": 1.5}])
def test_no_device_waits_for_a_slow_one_at_the_end(slower: dict[str, float]) -> None:
    gpus = {str(number): Node(2, 10**12, 100, ahead=4) for number in range(8)}
    schedule = Schedule(plan_of(*[(0, 1, 10)] * 240, device="cuda"), gpus)
    assert busy(schedule, gpus, slower) > 0.9


def test_a_device_that_joins_late_is_not_taken_for_a_slow_one() -> None:
    gpus = {str(number): Node(2, 10**12, 100, ahead=4) for number in range(8)}
    schedule = Schedule(plan_of(*[(0, 1, 10)] * 240, device="cuda"), {name: gpus[name] for name in list(gpus)[:-1]})
    assert busy(schedule, gpus, {}, joins=15.0) > 0.9


def killed(unit: str, beside: bool) -> Failed:
    """The process of a unit was killed, with others ``beside`` it or not."""
    return Failed(RunUnit(unit), UnitsFailedError("killed"), lost=True, killed=True, uncounted=beside)


def test_units_whose_process_was_killed_run_again_alone_and_none_of_them_has_lost_an_attempt() -> None:
    nodes = {"a": Node(2, 100, ahead=4)}
    schedule = Schedule(plan_of((0, 3, 1), (0, 2, 1), (0, 1, 1)), nodes)
    assert len(schedule.start()) == 3
    schedule.handle(killed("u0", beside=True))
    schedule.handle(killed("u1", beside=True))
    (first,) = schedule.handle(Done(RunUnit("u2")))
    assert isinstance(first, RunUnit)
    assert first.booking is not None
    assert first.booking.slots == 6, "all of its process"
    for _ in range(2):
        (again,) = schedule.handle(killed(first.unit, beside=False))
        assert again == first, "it has three attempts by itself"
        assert isinstance(again, RunUnit)
    assert again.low_memory
    schedule.handle(killed(first.unit, beside=False))
    assert schedule.failures[f"unit {first.unit}"].attempts == 4
    assert len(schedule.failures) == 1


def test_a_unit_that_does_not_fit_onto_its_gpu_runs_on_cores() -> None:
    nodes = {"a/0": Node(2, 100, device_memory=50), "a/cores/0": Node(2, 100)}
    schedule = Schedule(plan_of((0, 1, 50), device="cuda"), nodes)
    (unit,) = schedule.start()
    error = UnitsFailedError("the unit does not fit onto its GPU")
    (again,) = schedule.handle(Failed(unit, error, lost=True, uncounted=True, too_small=True))
    assert isinstance(again, RunUnit)
    assert again.on_host
    assert again.booking is not None
    assert (again.booking.node, again.booking.memory) == ("a/cores/0", 50)


def test_a_node_that_did_not_answer_and_comes_back_gets_units_like_any_other() -> None:
    nodes = {"a": Node(1, 100), "b": Node(1, 50)}
    schedule = Schedule(plan_of((0, 5, 1), (0, 4, 1), (0, 3, 1), (0, 2, 1)), nodes)
    on = placed(schedule.start())
    assert on == {"u0": "a", "u1": "b"}
    silent = Failed(RunUnit("u0"), UnitsFailedError("no answer"), lost=True, silent=True)
    schedule.handle(Capacity({"b": nodes["b"]}))
    assert not schedule.handle(silent)
    assert placed(schedule.handle(Capacity(nodes))) == {"u2": "a"}, "u0 avoids it"
