"""What to start next: a pure state machine, events in, instructions out. No I/O, no clock, no threads."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from svc_dist.errors import SvcDistError, TransientStorageError
from svc_dist.plan.model import Plan, Unit
from svc_dist.run.order.booking import book_waiting
from svc_dist.run.order.waiting import Group, Waiting
from svc_dist.run.pipeline.needs import Needs
from svc_dist.run.placement import Booking, Node, Placement
from svc_dist.run_folder.receipt import Receipt
from svc_dist.run_folder.report import RunRecord


@dataclass(frozen=True)
class RunUnit:
    """Start a unit where it is booked.

    ``low_memory``: on the low-memory path, because all attempts before this last one were killed.
    ``rewrite``: the storage has lost the unit's range, so the worker's state of the shard is outdated.
    ``on_host``: on cores that are booked for it, because it does not fit onto its GPU.
    """

    unit: str
    booking: Booking | None = field(default=None, compare=False)
    low_memory: bool = field(default=False, compare=False)
    rewrite: bool = field(default=False, compare=False)
    on_host: bool = field(default=False, compare=False)

    @property
    def title(self) -> str:
        return f"unit {self.unit}"


@dataclass(frozen=True)
class FinishShard:
    """All units of a shard are done: make it visible, in every result.

    ``earlier``: those of its units that an earlier start wrote, so that their ranges are compared with their receipts;
    ``receipts``: of its units, as far as the driver knows them, so that nobody reads them again.
    """

    shard: int
    earlier: tuple[str, ...] = field(default=(), compare=False)
    receipts: Mapping[str, Receipt] = field(default_factory=dict, compare=False, repr=False)

    @property
    def title(self) -> str:
        return f"shard {self.shard + 1}"


@dataclass(frozen=True)
class Publish:
    """All shards are finished: write the sidecars, then the index."""

    record: RunRecord | None = field(default=None, compare=False)

    @property
    def title(self) -> str:
        return "publishing"


Instruction = RunUnit | FinishShard | Publish


@dataclass(frozen=True)
class Done:
    """An instruction was executed. ``receipt``: of a unit."""

    instruction: Instruction
    receipt: Receipt | None = None


@dataclass(frozen=True)
class RangesLost:
    """A shard cannot be finished: the storage lost the ranges of ``units``. Their receipts are removed, and the storage
    is prepared to receive their ranges again."""

    instruction: FinishShard
    units: tuple[str, ...]
    error: SvcDistError


@dataclass(frozen=True)
class Failed:
    """An instruction failed.

    ``lost``: its worker went away, so another attempt may succeed; ``silent``: it did not answer in time; ``killed``:
    its process was killed, usually for memory, while its node stayed; ``uncounted``: it went away for a reason that
    says nothing about this instruction, such as the loss of its node, or a unit beside it; ``too_small``: its GPU is.
    """

    instruction: Instruction
    error: SvcDistError
    lost: bool = False
    silent: bool = False
    killed: bool = False
    uncounted: bool = False
    too_small: bool = False


@dataclass(frozen=True)
class Capacity:
    """The available nodes, by id."""

    nodes: Mapping[str, Node]


Event = Done | RangesLost | Failed | Capacity

#: Shards that are finished in parallel. They book nothing, so Ray would start a process for each of a resumed run's.
FINISHING = 4


@dataclass(frozen=True)
class Failure:
    """An instruction that failed permanently: the error and node of its last attempt, and the number of attempts."""

    instruction: Instruction
    error: SvcDistError
    attempts: int
    node: str


@dataclass
class Schedule:
    """Decides what runs where, for any executor.

    ``book_waiting`` decides which unit comes next, and on which node: one with enough free slots and memory: its own,
    ``sink_memory`` for its output, and that of its inputs where they are ``landing`` in memory. At most ``slots`` units
    are in flight where nodes have more, and ``FINISHING`` shards. Setting ``draining`` stops gracefully.

    An instruction that fails transiently is tried up to ``max_attempts`` times, on another node where there is one.
    Attempts that ended with their node do not count among them, up to ``max_uncounted``; nor those whose process was
    killed with others in it, but from then on the unit gets one to itself. Any other failure stops new
    work, lets the units in flight finish, and is recorded in ``failures``. Units whose ranges the storage lost run
    again like any others, up to ``max_losses`` times for each shard.
    """

    plan: Plan
    nodes: Mapping[str, Node]
    slots: int | None = None
    done: Collection[str] = ()
    finished: Collection[int] = ()
    max_attempts: int = 3
    max_losses: int = 3
    max_uncounted: int = 12
    sink_memory: int = 0
    landing: bool = False

    waiting: Waiting = field(init=False)
    in_flight: dict[Instruction, None] = field(init=False, default_factory=dict)
    attempts: dict[Instruction, int] = field(init=False, default_factory=dict)  # those that succeeded included
    failures: dict[str, Failure] = field(init=False, default_factory=dict)
    draining: bool = field(init=False, default=False)
    published: bool = field(init=False, default=False)
    retries: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self._placement = Placement(self.nodes)
        self._needs = Needs(self.plan, self.sink_memory, self.landing)
        self._failed_attempts: dict[Instruction, int] = {}
        self._uncounted: dict[Instruction, int] = {}
        self._lost_on: dict[str, list[str]] = {}
        self._kills: dict[str, int] = {}  # by unit, those that count
        self._alone, self._on_host = set[str](), set[str]()  # units that killed a process; that no GPU has room for
        self._losses: dict[int, int] = {}
        self._rewrites: dict[str, None] = {}
        self._ready: deque[Instruction] = deque()  # shards to finish, and publishing
        unfinished = [unit for unit in self.plan.units if unit.id not in self.done]
        self._flying = 0  # units in flight
        self.waiting = Waiting(unfinished)
        for unit in sorted(unfinished, key=lambda unit: (-unit.work, unit.id)):
            self.waiting.append(unit, self._group(unit.id))
        self._open = [0] * self.plan.count
        for unit in unfinished:
            self._open[unit.shard] += 1
        self._earlier: list[list[str]] = [[] for _ in self._open]
        for unit in self.plan.units:
            if unit.id in self.done:
                self._earlier[unit.shard].append(unit.id)
        self._unfinished = {n: None for n in range(self.plan.count) if n not in self.finished or self._open[n]}

    @property
    def over(self) -> bool:
        """Nothing is in flight and nothing more will start."""
        return not self.in_flight and (self.published or self.draining or bool(self.failures))

    def start(self) -> list[Instruction]:
        """The first instructions."""
        ready: list[Instruction] = [self._finish(shard) for shard in self._unfinished if not self._open[shard]]
        return self._issue([*ready, *self._publish_if_ready()])

    def handle(self, event: Event) -> list[Instruction]:
        """Process an event. Returns the instructions to start now."""
        if isinstance(event, Capacity):
            self._placement.resize(event.nodes)
            return self._issue([])
        if event.instruction not in self.in_flight:
            return []  # a late answer from an abandoned attempt
        self.in_flight.pop(event.instruction)
        self._flying -= isinstance(event.instruction, RunUnit)
        booking = self._placement.release(event.instruction)
        if isinstance(event, Failed):
            return self._failed(event, booking)
        if booking is not None:
            self._placement.mark(booking.node, True)
            self._placement.has_done(booking)
        if isinstance(event, RangesLost):
            return self._lost(event)
        match event.instruction:
            case RunUnit(unit):
                shard = self.plan.unit[unit].shard
                self._open[shard] -= 1
                return self._issue([] if self._open[shard] else [self._finish(shard)])
            case FinishShard(shard):
                self._unfinished.pop(shard, None)
                return self._issue(self._publish_if_ready())
            case Publish():
                self.published = True
        return []

    def _failed(self, event: Failed, booking: Booking | None) -> list[Instruction]:
        if booking is not None and event.silent:
            self._placement.mark(booking.node, False)
        transient = event.lost or isinstance(event.error, TransientStorageError)
        counts = self._uncounted if event.uncounted else self._failed_attempts
        failed = counts[event.instruction] = counts.get(event.instruction, 0) + 1
        if not transient or failed >= (self.max_uncounted if event.uncounted else self.max_attempts):
            return self._fail(event, booking)
        self.retries += 1
        if not isinstance(event.instruction, RunUnit):
            return self._issue([event.instruction])
        unit = event.instruction.unit
        if booking is not None and event.lost:
            self._lost_on.setdefault(unit, []).append(booking.node)
        self._kills[unit] = self._kills.get(unit, 0) + (event.killed and not event.uncounted)
        for units, holds in ((self._alone, event.killed), (self._on_host, event.too_small)):
            units.update((unit,) if holds else ())
        self.waiting.appendleft(self.plan.unit[unit], self._group(unit))
        return self._issue([])

    def _lost(self, event: RangesLost) -> list[Instruction]:
        shard = event.instruction.shard
        losses = self._losses[shard] = self._losses.get(shard, 0) + 1
        if losses > self.max_losses:
            return self._fail(event)
        self.retries += len(event.units)
        self._open[shard] += len(event.units)
        self._rewrites.update(dict.fromkeys(event.units))
        for unit in reversed(event.units):
            self.waiting.appendleft(self.plan.unit[unit], self._group(unit))
        return self._issue([] if event.units else [event.instruction])

    def _fail(self, event: Failed | RangesLost, booking: Booking | None = None) -> list[Instruction]:
        name = "" if booking is None else self._placement.names.get(booking.node, "")
        attempts = self.attempts[event.instruction]
        self.failures[event.instruction.title] = Failure(event.instruction, event.error, attempts, name)
        return []

    def _finish(self, shard: int) -> FinishShard:
        return FinishShard(shard, tuple(unit for unit in self._earlier[shard] if unit not in self._rewrites))

    def _group(self, unit: str) -> Group:
        """What a unit needs, and the nodes that it was lost on."""
        need = self._needs.of(unit, unit in self._on_host)
        return Group(need._replace(alone=unit in self._alone), tuple(self._lost_on.get(unit, ())))

    def _publish_if_ready(self) -> list[Instruction]:
        return [Publish()] if not self._unfinished and not self.published else []

    def _issue(self, ready: Sequence[Instruction]) -> list[Instruction]:
        if self.draining or self.failures:
            return []
        self._ready.extend(ready)
        free = FINISHING - (len(self.in_flight) - self._flying)
        issued = [self._ready.popleft() for _ in range(min(free, len(self._ready)))]
        issued += self._book_waiting()
        for instruction in issued:
            self.in_flight[instruction] = None
            self._flying += isinstance(instruction, RunUnit)
            self.attempts[instruction] = self.attempts.get(instruction, 0) + 1
        return issued

    def _book_waiting(self) -> list[RunUnit]:
        """Book the waiting units that a node has room for now."""
        if self._placement.full:
            return []
        most = self.slots if self.slots is not None and self.slots < self._placement.slots else sys.maxsize
        return book_waiting(self.waiting, self._placement, most - self._flying, self._start)

    def _start(self, unit: Unit, booking: Booking) -> RunUnit:
        low_memory = self._kills.get(unit.id, 0) == self.max_attempts - 1 > 0
        return RunUnit(unit.id, booking, low_memory, unit.id in self._rewrites, unit.id in self._on_host)
