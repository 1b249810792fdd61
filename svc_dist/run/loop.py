"""The driver: feeds the schedule's instructions to an executor and its events back, until the run is over."""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace

from svc_dist.errors import (
    DamagedInputError,
    DeviceFailedError,
    DrainedError,
    StorageError,
    SvcDistError,
    UnitsFailedError,
)
from svc_dist.plan.model import Plan
from svc_dist.run.executors.base import Drains, Executor
from svc_dist.run.options import Limits
from svc_dist.run.placement import Node
from svc_dist.run.progress import Progress, unit_line
from svc_dist.run.schedule import (
    Capacity,
    Done,
    Event,
    Failed,
    Failure,
    FinishShard,
    Instruction,
    Publish,
    RangesLost,
    RunUnit,
    Schedule,
)
from svc_dist.run.signals.stopping import signals
from svc_dist.run_folder.journal import FailureRecord, describe_failure
from svc_dist.run_folder.lock import Lock
from svc_dist.run_folder.report import RunRecord
from svc_dist.run_folder.rounding_warning import RoundingWarning
from svc_dist.run_folder.segments.ledger import Ledger
from svc_dist.sizes import counted, format_size

_POLL = 0.5  # seconds
_SPEED = 20e9  # operations a second, of a device that did not measure its own
_SLOWER = 20.0  # than by the estimate a unit may be before it counts as lost
_log = logging.getLogger("svc_dist")


def drive(
    schedule: Schedule,
    executor: Executor,
    progress: Progress,
    ledger: Ledger,
    limits: Limits,
    lock: Lock,
    stop: threading.Event | None = None,
) -> None:
    """Run a schedule to its end. ``stop``: is set, also by others, when the run is asked to stop.

    SIGTERM, SIGINT or the end of ``limits.runtime`` drains: nothing new starts, running instructions may finish for
    ``limits.grace`` seconds, then DrainedError. An instruction that does not answer within its time is abandoned and
    counts as lost. Raises the error of what failed permanently; the next start resumes.
    """
    driver = _Driver(schedule, executor, progress, ledger, limits, stop or threading.Event())
    with signals(driver.stop):
        driver.submit(schedule.start())
        while not schedule.over and not driver.out_of_grace():
            driver.step()
            lock.require_held()
    if schedule.published:
        if driver.rounding.text is not None:
            _log.warning(f"warning: {driver.rounding.text}")
        return
    if schedule.failures:
        records = {name: _record(failure, schedule.plan) for name, failure in schedule.failures.items()}
        with suppress(StorageError):  # on a full disk the reason matters more than its record
            ledger.journal.record_failures(records)
        first = next(iter(schedule.failures.values())).error
        raise _error_of_run(first, records, len(schedule.plan.units)) from first
    raise DrainedError("the merge is not complete", "run the same command again to resume")


class _Driver:
    """The clock of a run: start times, lost work that waits for its retry, and time limits."""

    def __init__(
        self,
        schedule: Schedule,
        executor: Executor,
        progress: Progress,
        ledger: Ledger,
        limits: Limits,
        stop: threading.Event,
    ) -> None:
        self.schedule, self.executor, self.progress = schedule, executor, progress
        self.ledger, self.limits = ledger, limits
        self.stop, self.rounding = stop, RoundingWarning()
        self._began = self._last_busy = time.monotonic()
        self._end_of_grace: float | None = None
        self._numbers = itertools.count()
        self._submissions: dict[Instruction, int] = {}  # the number of each instruction's last submission
        self._deadlines: list[tuple[float, int, float, Instruction]] = []  # a heap: when, submission, its start
        self._on_node: dict[str, dict[Instruction, float]] = {}  # seconds of the units of each node, at worst
        self._pausing: dict[Instruction, tuple[float, Failed]] = {}  # lost work, until the pause before its retry ends

    def submit(self, instructions: list[Instruction]) -> None:
        for instruction in instructions:
            now, number = time.monotonic(), next(self._numbers)
            self._submissions[instruction] = number
            heapq.heappush(self._deadlines, (now + self._allowed(instruction), number, now, instruction))
            if isinstance(instruction, FinishShard):
                instruction = replace(instruction, receipts=self.ledger.of(instruction.shard))
            if isinstance(instruction, Publish):
                self.ledger.settle()  # publishing removes the run folder
                instruction = Publish(_run_record(self.schedule, self.executor, time.monotonic() - self._began))
            self.executor.submit(instruction)

    def out_of_grace(self) -> bool:
        return self._end_of_grace is not None and time.monotonic() > self._end_of_grace

    def step(self) -> None:
        """Drain if it is time to, wait for events and handle them, then check late and lost instructions."""
        self._drain_if_asked()
        for event in self.executor.wait(_POLL):
            self._handle(event)
        now = time.monotonic()
        self._retry_lost(now)
        self._abandon_late(now)
        self._require_nodes(now)
        self.progress.tick()

    def _drain_if_asked(self) -> None:
        if self._end_of_grace is not None:
            return
        now, grace = time.monotonic(), self.limits.grace
        late = self.limits.runtime is not None and now - self._began > self.limits.runtime
        if self.stop.is_set() or late:
            self.schedule.draining = True
            self._end_of_grace = now + grace
            why = "asked to stop" if self.stop.is_set() else "time is up"
            if isinstance(self.executor, Drains):
                self.executor.drain()
            running = counted(len(self.schedule.in_flight), "running instruction")
            _log.warning(f"{why}: {running} may finish (up to {grace:.0f} s)")

    def _handle(self, event: Event) -> None:
        if isinstance(event, Done) and event.receipt is not None:
            self.ledger.add(event.receipt)
            self.progress.count([event.receipt.unit])
            self.rounding.count(event.receipt)
            if _log.isEnabledFor(logging.DEBUG):
                _log.debug(unit_line(self.schedule.plan, event.receipt))
        if isinstance(event, Capacity):
            _log.warning(f"the cluster has {_described(event.nodes)}")
        if isinstance(event, RangesLost):
            self.ledger.remove(event.units)
            self.progress.count(event.units, -1)
            _log.warning(f"{event.error.message}: running {counted(len(event.units), 'unit')} again")
        if isinstance(event, Failed) and event.lost and event.instruction in self.schedule.in_flight:
            attempt = self.schedule.attempts[event.instruction]
            if not isinstance(event.error, DrainedError):
                _log.warning(f"{event.instruction.title}, attempt {attempt}: {event.error.message}")
            self._pausing[event.instruction] = (time.monotonic() + self.limits.pause * 2 ** min(attempt - 1, 5), event)
            return
        self.submit(self.schedule.handle(event))

    def _retry_lost(self, now: float) -> None:
        for instruction, (due, failed) in list(self._pausing.items()):
            if now >= due or self._end_of_grace is not None:
                del self._pausing[instruction]
                self.submit(self.schedule.handle(failed))

    def _allowed(self, instruction: Instruction) -> float:
        """Seconds for an instruction: on its node, a unit may wait for those that came before it."""
        seconds = _longest(self.schedule.plan, instruction, self.executor.nodes)
        booking = instruction.booking if isinstance(instruction, RunUnit) else None
        node = self.executor.nodes.get(booking.node) if booking is not None else None
        if booking is None or node is None or not node.ahead:
            return self.limits.unit + seconds
        there = self._on_node.setdefault(booking.node, {})
        for ended in [one for one in there if one not in self.schedule.in_flight]:
            del there[ended]
        there[instruction] = seconds
        return self.limits.unit + sum(there.values())

    def _abandon_late(self, now: float) -> None:
        """Abandon what is in flight past its deadline. Those of what has ended since are dropped when they come up."""
        while self._deadlines and self._deadlines[0][0] < now:
            _, number, began, instruction = heapq.heappop(self._deadlines)
            ended = instruction not in self.schedule.in_flight or self._submissions[instruction] != number
            if ended or instruction in self._pausing:
                continue
            if self.executor.abandon(instruction):
                error = UnitsFailedError(f"no answer within {now - began:.0f} s")
                self._handle(Failed(instruction, error, lost=True, silent=True))
            else:
                heapq.heappush(self._deadlines, (now + _POLL, number, began, instruction))

    def _require_nodes(self, now: float) -> None:
        """Raise UnitsFailedError when for too long no node could run a unit."""
        if self.schedule.in_flight or self.schedule.over:
            self._last_busy = now
        elif now - self._last_busy > self.limits.no_node:
            raise UnitsFailedError(
                f"no node can run a unit, for {now - self._last_busy:.0f} s now",
                "start workers, then run the same command again to resume",
            )


def _described(nodes: Mapping[str, Node]) -> str:
    usable = [node for node in nodes.values() if node.slots]
    slots, memory = sum(node.slots for node in usable), sum(node.memory for node in usable)
    devices = [node for node in usable if node.device_memory is not None]
    kind, usable = ("GPU", devices) if devices else ("node", usable)
    number = counted(len({node.name for node in usable}), kind)
    return f"{number} for {counted(slots, 'unit')} at a time, {format_size(memory)} of memory"


def _run_record(schedule: Schedule, executor: Executor, seconds: float) -> RunRecord:
    units = [unit for unit in schedule.plan.units if unit.id not in schedule.done]
    return RunRecord(
        executor=executor.name,
        nodes=tuple(dict.fromkeys(node.name for node in executor.nodes.values() if node.slots)),
        seconds=seconds,
        bytes_moved=sum(unit.bytes_in + unit.bytes_out for unit in units),
        units=len(units),
        units_resumed=len(schedule.plan.units) - len(units),
        retries=schedule.retries,
        attempts={
            item.unit: count for item, count in schedule.attempts.items() if isinstance(item, RunUnit) and count > 1
        },
    )


def _longest(plan: Plan, instruction: Instruction, nodes: Mapping[str, Node]) -> float:
    """Seconds that an instruction of this size takes at worst: 20 times what its device measured, and at 1 MB/s."""
    match instruction:
        case RunUnit(name, booking):
            unit, node = plan.unit[name], nodes.get(booking.node) if booking is not None else None
            speed = (node.speed if node is not None else None) or _SPEED
            return _SLOWER * unit.flops / speed + (unit.bytes_in + unit.bytes_out) / 1e6
        case FinishShard(shard):
            return sum(plan.shards[number].size for number in plan.shards_of(shard)) / 1e6
    return 0.0


def _record(failure: Failure, plan: Plan) -> FailureRecord:
    unit = plan.unit[failure.instruction.unit] if isinstance(failure.instruction, RunUnit) else None
    return {
        "error": str(failure.error),
        "attempts": failure.attempts,
        "node": failure.node,
        "device": plan.settings.device,
        "tensors": [plan.tensors[number].name for number, _, _ in unit.pieces] if unit is not None else [],
    }


def _error_of_run(first: SvcDistError, failures: dict[str, FailureRecord], units: int) -> SvcDistError:
    """The error that a run raises: its first one where that is a likely common cause, else the list of failures."""
    more = f"\n(and {len(failures) - 1} more failed)" if len(failures) > 1 else ""
    if isinstance(first, StorageError | DeviceFailedError) or first.exit_code == DamagedInputError.exit_code:
        return type(first)(first.message + more, first.hint)
    listed = "\n".join(describe_failure(name, record) for name, record in failures.items())
    return UnitsFailedError(
        f"{len(failures)} of {units} units failed:\n{listed}",
        "remove the cause, then run the same command again to resume",
    )
