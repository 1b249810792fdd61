"""The driver: abandons what does not answer, and stops gracefully when time is up."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from types import FrameType
from typing import Any, ClassVar

import pytest

from svc_dist.errors import DeviceFailedError, DrainedError, ExitCode, UnitsFailedError
from svc_dist.run.loop import _Driver, _longest, drive
from svc_dist.run.options import Limits
from svc_dist.run.placement import Booking, Node
from svc_dist.run.progress import Progress
from svc_dist.run.schedule import Capacity, Done, Event, Failed, Instruction, RunUnit, Schedule
from svc_dist.run.signals.stopping import signals
from svc_dist.run_folder.journal import Journal
from svc_dist.run_folder.lock import Lock
from svc_dist.run_folder.segments.ledger import Ledger
from svc_dist.storage.local import LocalStorage
from tests.run.test_schedule import plan_of


class Stub:
    """An executor for which ``stalls`` never answer, each as many times as it is listed; others answer at once."""

    name = "stub"
    nodes: ClassVar[Mapping[str, Node]] = {"a": Node(2, 100)}

    def __init__(self, stalls: Sequence[str] = (), seconds: float = 0.0, can_abandon: bool = True) -> None:
        self.stalls, self.seconds, self.can_abandon = list(stalls), seconds, can_abandon
        self.started: list[Instruction] = []
        self.abandoned: list[Instruction] = []
        self.answers: list[Event] = []

    def submit(self, instruction: Instruction) -> None:
        self.started.append(instruction)
        if isinstance(instruction, RunUnit) and instruction.unit in self.stalls:
            self.stalls.remove(instruction.unit)
        else:
            self.answers.append(Done(instruction))

    def abandon(self, instruction: Instruction) -> bool:
        if self.can_abandon:
            self.abandoned.append(instruction)
        return self.can_abandon

    def wait(self, timeout: float) -> list[Event]:
        time.sleep(self.seconds or 0.01)
        events, self.answers = self.answers[:1], self.answers[1:]
        return events

    def close(self) -> None: ...


class Free:
    """A lock that is always held."""

    def require_held(self) -> None: ...


def run(executor: Stub, tmp_path: object, limits: Limits) -> Schedule:
    plan = plan_of(*((0, 5.0 - n, 1) for n in range(5)))
    schedule = Schedule(plan, executor.nodes)
    lock: Lock = Free()  # type: ignore[assignment]
    with Progress(plan, (), False) as progress:
        drive(schedule, executor, progress, Ledger(Journal(LocalStorage(str(tmp_path))), plan), limits, lock)  # type: ignore[arg-type]
    return schedule


def test_a_unit_that_does_not_answer_is_abandoned_and_done_elsewhere(tmp_path: object) -> None:
    executor = Stub(stalls=["u1"])
    schedule = run(executor, tmp_path, Limits(unit=0.2, pause=0.1))
    assert executor.abandoned == [RunUnit("u1")]
    assert executor.started.count(RunUnit("u1")) == 2
    assert schedule.published
    assert schedule.retries == 1


def test_a_unit_that_never_answers_fails_after_three_attempts(tmp_path: object) -> None:
    executor = Stub(stalls=["u1"] * 9)
    with pytest.raises(UnitsFailedError, match=r"unit u1 \(cpu\), 3 attempts: no answer within"):
        run(executor, tmp_path, Limits(unit=0.1, pause=0.1))
    assert executor.started.count(RunUnit("u1")) == 3


def test_a_run_whose_gpu_failed_says_so_by_its_kind(tmp_path: object) -> None:
    """So that a batch knows that this process computes nothing more."""

    class Sick(Stub):
        def submit(self, instruction: Instruction) -> None:
            failed = DeviceFailedError("cuda:0 failed: CUDA error: an illegal memory access", "use another GPU")
            self.answers.append(Failed(instruction, failed))

    with pytest.raises(DeviceFailedError, match=r"cuda:0 failed: .*\n\(and 1 more failed\)") as raised:
        run(Sick(), tmp_path, Limits())
    assert raised.value.hint == "use another GPU"


def test_where_nothing_can_be_abandoned_the_run_waits(tmp_path: object) -> None:
    executor = Stub(stalls=["u1"], can_abandon=False)
    with pytest.raises(DrainedError):
        run(executor, tmp_path, Limits(grace=0.1, runtime=0.5, unit=0.1))
    assert executor.started.count(RunUnit("u1")) == 1


def test_a_large_unit_has_longer(tmp_path: object) -> None:
    executor = Stub(seconds=0.05)
    plan = plan_of((0, 1e12, 1))
    schedule = Schedule(plan, executor.nodes, slots=1)
    lock: Lock = Free()  # type: ignore[assignment]
    with Progress(plan, (), False) as progress:
        drive(schedule, executor, progress, Ledger(Journal(LocalStorage(str(tmp_path))), plan), Limits(unit=0.02), lock)  # type: ignore[arg-type]
    assert RunUnit("u0") not in executor.abandoned


def test_the_deadline_of_a_unit_follows_from_what_its_device_measured() -> None:
    plan = plan_of((0, 1e14, 1))
    slow, fast = Node(2, 9), Node(2, 9, 80, speed=1e12)
    seconds = [_longest(plan, RunUnit("u0", Booking("a", 1)), {"a": node}) for node in (slow, fast)]
    assert seconds == [1e5, 2e3]
    assert _longest(plan, RunUnit("u0", Booking("gone", 1)), {"a": fast}) == 1e5


def test_when_time_is_up_nothing_new_starts_and_the_code_says_try_again(tmp_path: object) -> None:
    executor = Stub(seconds=0.2)
    with pytest.raises(DrainedError) as caught:
        run(executor, tmp_path, Limits(grace=5, runtime=0.3))
    assert caught.value.exit_code == ExitCode.TRY_AGAIN
    assert 2 <= len(executor.started) < 5
    assert not executor.answers  # what was in flight could finish


def test_a_second_ctrl_c_does_what_the_first_does_without_a_merge() -> None:
    stop = threading.Event()
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with signals(stop):
            signal.raise_signal(signal.SIGINT)
            assert stop.is_set()
            signal.raise_signal(signal.SIGTERM)
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_the_deadline_of_a_unit_says_nothing_about_the_wait_for_a_node(tmp_path: object) -> None:
    """A cluster that has no node for longer than ``unit``, then one."""
    executor = Stub()
    executor.nodes = {}  # type: ignore[misc]
    executor.answers = [Capacity({})] * 40 + [Capacity({"a": Node(2, 100)})]
    assert run(executor, tmp_path, Limits(unit=0.1)).published


def test_a_run_ends_when_no_node_can_run_a_unit_for_too_long(tmp_path: object) -> None:
    executor = Stub()
    executor.nodes = {}  # type: ignore[misc]
    with pytest.raises(UnitsFailedError, match="no node can run a unit"):
        run(executor, tmp_path, Limits(no_node=0.1))


def steps_of(units: int, nodes: int, tmp_path: object) -> float:
    """Bytecode instructions that the driver takes for a unit, on nodes whose memory is full before their slots."""
    plan = plan_of(*((n % 7, float(n * 37 % 101), 20 + n * 11 % 5) for n in range(units)))
    executor = Stub()
    executor.nodes = {f"n{number}": Node(8, 100) for number in range(nodes)}  # type: ignore[misc]
    schedule = Schedule(plan, executor.nodes)
    lock: Lock = Free()  # type: ignore[assignment]
    steps = 0

    def count(frame: FrameType, event: str, _: object) -> Any:
        nonlocal steps
        frame.f_trace_opcodes = True
        steps += event == "opcode"
        return count

    executor.wait = lambda timeout: [executor.answers.pop(0)]  # type: ignore[method-assign]
    before = sys.gettrace()
    with Progress(plan, (), False) as progress:
        sys.settrace(count)
        try:
            drive(schedule, executor, progress, Ledger(Journal(LocalStorage(str(tmp_path))), plan), Limits(), lock)  # type: ignore[arg-type]
        finally:
            sys.settrace(before)
    assert schedule.published
    return steps / units


def test_the_work_for_a_unit_does_not_grow_with_the_number_of_units(tmp_path: object) -> None:
    few, many = steps_of(60, 4, tmp_path), steps_of(240, 4, tmp_path)
    assert many < 1.2 * few
    assert steps_of(100, 16, tmp_path) < 2 * many, "four times the nodes, and units in flight, take little more"


class Ahead(Stub):
    """A node where units wait for those that came before them."""

    nodes: ClassVar[Mapping[str, Node]] = {"a": Node(1, 100, ahead=1)}


def test_a_unit_that_waits_behind_another_one_has_the_time_of_both(tmp_path: object) -> None:
    plan = plan_of((0, 4e9, 1), (0, 1e9, 1))
    schedule = Schedule(plan, Ahead.nodes)
    executor, ledger = Ahead(), Ledger(Journal(LocalStorage(str(tmp_path))), plan)
    with Progress(plan, (), False) as progress:
        driver = _Driver(schedule, executor, progress, ledger, Limits(unit=10), threading.Event())  # type: ignore[arg-type]
        driver.submit(schedule.start())
        by_unit = {item.unit: due - began for due, _, began, item in driver._deadlines if isinstance(item, RunUnit)}
        assert by_unit == pytest.approx({"u0": 14, "u1": 15})
        driver._handle(Done(RunUnit("u0")))
        driver.submit([RunUnit("u1", Booking("a", 1))])
        due, _, began, _ = max(driver._deadlines, key=lambda one: one[1])
        assert due - began == pytest.approx(11)
