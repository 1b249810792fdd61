"""The driver: feeds the schedule's instructions to an executor and its events back, until the run is over."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Protocol

from svc_dist.errors import DamagedInputError, DrainedError, StorageError, SvcDistError, UnitsFailedError
from svc_dist.plan.model import Plan
from svc_dist.run.options import Limits
from svc_dist.run.placement import Node
from svc_dist.run.progress import Progress
from svc_dist.run.schedule import (
    Capacity,
    Done,
    Drain,
    Event,
    Failed,
    Failure,
    FinishShard,
    Instruction,
    Publish,
    RunUnit,
    Schedule,
)
from svc_dist.run_folder.journal import FailureRecord, Journal, describe_failure
from svc_dist.run_folder.lock import Lock
from svc_dist.run_folder.report import RunRecord
from svc_dist.sizes import format_size

_POLL = 0.5


class Executor(Protocol):
    """Carries out instructions somewhere and reports how they went.

    ``nodes``: what there is to run on at first; a Capacity event tells what there is later.
    """

    name: str

    @property
    def nodes(self) -> Mapping[str, Node]: ...

    def submit(self, instruction: Instruction) -> None: ...

    def give_up(self, instruction: Instruction) -> bool:
        """Stop waiting for an instruction that does not answer; False where that cannot be done."""

    def wait(self, timeout: float) -> list[Event]: ...

    def close(self) -> None: ...


def drive(
    schedule: Schedule, executor: Executor, progress: Progress, journal: Journal, limits: Limits, lock: Lock
) -> None:
    """Run a schedule to its end.

    SIGTERM, SIGINT or the end of ``limits.runtime`` drains: nothing new starts, what is in flight may finish for
    ``limits.grace`` seconds, then DrainedError. What does not answer within its time is given up and counts as lost.
    Raises the error of what failed for good; the next start resumes.
    """
    stop = threading.Event()
    began = idle = time.monotonic()
    deadline: float | None = None
    started: dict[Instruction, float] = {}
    held: dict[Instruction, tuple[float, Failed]] = {}  # losses, until the pause before the next attempt is over

    def submit(instructions: list[Instruction]) -> None:
        for instruction in instructions:
            started[instruction] = time.monotonic()
            if isinstance(instruction, Publish):
                instruction = Publish(_run_record(schedule, executor, time.monotonic() - began))
            executor.submit(instruction)

    def take(event: Event) -> None:
        if isinstance(event, Done) and event.receipt is not None:
            progress.unit_done(event.receipt.unit)
        if isinstance(event, Capacity):
            progress.note(f"the cluster has {_described(event.nodes)}")
        if isinstance(event, Failed) and event.lost and event.instruction in schedule.in_flight:
            attempt = schedule.attempts[event.instruction]
            progress.note(f"{event.instruction.title}, attempt {attempt}: {event.error.message}")
            held[event.instruction] = (time.monotonic() + limits.pause * 2 ** (attempt - 1), event)
            return
        submit(schedule.handle(event))

    with _signals(stop):
        submit(schedule.start())
        while not schedule.over:
            now = time.monotonic()
            late = limits.runtime is not None and now - began > limits.runtime
            if (stop.is_set() or late) and deadline is None:
                schedule.handle(Drain())
                deadline = now + limits.grace
                why = "time is up" if late and not stop.is_set() else "asked to stop"
                progress.note(f"{why}: letting {len(schedule.in_flight)} in flight finish (up to {limits.grace:.0f} s)")
                continue
            if deadline is not None and now > deadline:
                break
            for event in executor.wait(_POLL):
                take(event)
            now = time.monotonic()
            for instruction, (due, failed) in list(held.items()):
                if now >= due or deadline is not None:
                    del held[instruction]
                    submit(schedule.handle(failed))
            for instruction in [instruction for instruction in schedule.in_flight if instruction not in held]:
                spent = now - started[instruction]
                allowed = limits.unit + _longest(schedule.plan, instruction)
                if spent > allowed and executor.give_up(instruction):
                    error = UnitsFailedError(f"no answer within {spent:.0f} s")
                    take(Failed(instruction, error, lost=True, silent=True))
            if schedule.in_flight:
                idle = now
            elif not schedule.over and now - idle > limits.unit:
                raise UnitsFailedError(
                    f"no node that could take a unit for {now - idle:.0f} s",
                    "start workers, then the same command again",
                )
            progress.tick()
            lock.require_held()
    if schedule.published:
        return
    if schedule.failures:
        with suppress(StorageError):  # on a full disk the reason matters more than its record
            journal.record_failures(
                {name: _record(failure, schedule.plan) for name, failure in schedule.failures.items()}
            )
        raise _failure(schedule.plan, schedule.failures)
    raise DrainedError("stopped as asked before the merge was complete", "start the same command again to go on")


def _described(nodes: Mapping[str, Node]) -> str:
    usable = [node for node in nodes.values() if node.slots]
    slots, memory = sum(node.slots for node in usable), sum(node.memory for node in usable)
    return f"{len(usable)} node{'s' * (len(usable) != 1)} for {slots} units at a time, {format_size(memory)} of memory"


def _run_record(schedule: Schedule, executor: Executor, seconds: float) -> RunRecord:
    units = [unit for unit in schedule.plan.units if unit.id not in schedule.done]
    return RunRecord(
        executor=executor.name,
        nodes=tuple(node.name for node in executor.nodes.values() if node.slots),
        seconds=seconds,
        bytes_moved=sum(unit.bytes_in + unit.bytes_out for unit in units),
        units=len(units),
        units_resumed=len(schedule.plan.units) - len(units),
        retries=schedule.retries,
        attempts={
            item.unit: count for item, count in schedule.attempts.items() if isinstance(item, RunUnit) and count > 1
        },
    )


def _longest(plan: Plan, instruction: Instruction) -> float:
    """Seconds that an instruction's size explains at worst: at 1 Gflop/s and 1 MB/s."""
    match instruction:
        case RunUnit(name):
            unit = plan.unit[name]
            return unit.flops / 1e9 + (unit.bytes_in + unit.bytes_out) / 1e6
        case FinishShard(shard):
            return plan.shards[shard].size / 1e6
    return 0.0


def _record(failure: Failure, plan: Plan) -> FailureRecord:
    return {
        "error": str(failure.error),
        "attempts": failure.attempts,
        "node": failure.node,
        "device": plan.settings.device,
        "tensors": _tensors(failure.instruction, plan),
    }


def _tensors(instruction: Instruction, plan: Plan) -> list[str]:
    pieces = plan.unit[instruction.unit].pieces if isinstance(instruction, RunUnit) else ()
    return [plan.tensors[number].name for number, _, _ in pieces]


def _failure(plan: Plan, failures: dict[str, Failure]) -> SvcDistError:
    """The one error that a run ends with: the common cause where there is one, else that some units failed."""
    first = next(iter(failures.values())).error
    more = f"\n(and {len(failures) - 1} more failed)" if len(failures) > 1 else ""
    if isinstance(first, StorageError | DamagedInputError) or first.exit_code == DamagedInputError.exit_code:
        return type(first)(first.message + more, first.hint)
    listed = "\n".join(describe_failure(name, _record(failure, plan)) for name, failure in failures.items())
    return UnitsFailedError(
        f"{len(failures)} of {len(plan.units)} units failed:\n{listed}",
        "mend the cause and start the same command again",
    )


@contextmanager
def _signals(stop: threading.Event) -> Iterator[None]:
    """SIGTERM and SIGINT set ``stop``; a second SIGINT interrupts at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, frame: FrameType | None) -> None:
        earlier = before[signal.SIGINT]
        if stop.is_set() and number == signal.SIGINT and callable(earlier):
            earlier(number, frame)
        stop.set()

    before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
