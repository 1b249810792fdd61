"""Units read, compute and write in the order in which they come, each stage within its limit."""

from __future__ import annotations

from svc_dist.run.pipeline.flow import Flow, Stage


def names(moves: object) -> list[tuple[object, str]]:
    return [(move.unit, move.stage.value) for move in moves]  # type: ignore[attr-defined]


def test_a_unit_reads_then_computes() -> None:
    flow = Flow(window=100, lanes=1)
    assert names(flow.arrive("a", 10)) == [("a", "read")]
    assert names(flow.has_read("a")) == [("a", "compute")]
    assert flow.has_computed("a") == []


def test_the_next_unit_reads_while_one_computes_and_computes_when_that_has() -> None:
    flow = Flow(window=100, lanes=1)
    flow.arrive("a", 10)
    flow.has_read("a")
    assert names(flow.arrive("b", 10)) == [("b", "read")]
    assert flow.has_read("b") == []
    assert names(flow.has_computed("a")) == [("b", "compute")]


def test_no_unit_gets_a_lane_before_its_bytes_are_there() -> None:
    flow = Flow(window=100, lanes=2)
    for unit in "abc":
        flow.arrive(unit, 10)
    assert names(flow.has_read("b")) == [("c", "read"), ("b", "compute")]
    assert names(flow.has_read("c")) == [("c", "compute")]
    assert flow.has_read("a") == []
    assert names(flow.has_computed("b")) == [("a", "compute")]


def test_units_read_ahead_only_as_far_as_the_window_goes() -> None:
    flow = Flow(window=25, lanes=1)
    assert names(flow.arrive("a", 10)) == [("a", "read")]
    assert names(flow.arrive("b", 10)) == [("b", "read")]
    assert flow.arrive("c", 10) == []
    flow.has_read("a")
    assert flow.has_read("b") == []
    assert names(flow.has_computed("a")) == [("b", "compute"), ("c", "read")]


def test_the_first_ones_to_come_read_before_the_others_share_the_connections() -> None:
    flow = Flow(window=1000, lanes=1)
    started = [move for unit in "abcd" for move in flow.arrive(unit, 10)]
    assert [move.unit for move in started if move.stage is Stage.READ] == ["a", "b"]
    assert names(flow.has_read("a")) == [("c", "read"), ("a", "compute")]


def test_a_unit_that_takes_a_whole_device_has_it_alone() -> None:
    flow = Flow(window=100, lanes=2)
    for unit in "ab":
        flow.arrive(unit, 10)
    assert names(flow.has_read("a", lanes=2)) == [("a", "compute")]
    assert flow.has_read("b", lanes=1) == []
    assert names(flow.has_computed("a")) == [("b", "compute")]


def test_units_of_cores_do_not_wait_for_the_device() -> None:
    flow = Flow(window=100, lanes=1, host_lanes=1)
    for unit in "abc":
        flow.arrive(unit, 10)
    flow.has_read("a")
    assert names(flow.has_read("b", on_host=True))[-1] == ("b", "compute")
    assert flow.has_read("c", on_host=True) == []


def test_a_unit_that_fails_anywhere_makes_room() -> None:
    flow = Flow(window=10, lanes=1)
    flow.arrive("reading", 10)
    flow.arrive("waiting", 10)
    assert flow.arrive("last", 10) == []
    assert flow.has_computed("waiting") == []
    assert names(flow.has_computed("reading")) == [("last", "read")]
