"""What to start next: a pure state machine, events in, instructions out. No I/O, no clock, no threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from svc_dist.errors import SvcDistError, TransientStorageError
from svc_dist.methods.costs import ON_HOST
from svc_dist.plan.model import Plan
from svc_dist.run.placement import Need, Node, Place, Placement
from svc_dist.run_folder.receipt import Receipt
from svc_dist.run_folder.report import RunRecord


@dataclass(frozen=True)
class RunUnit:
    """Start a unit, at its ``place``. ``low_memory``: on the path that takes least, because all attempts but this last
    one were killed."""

    unit: str
    place: Place | None = field(default=None, compare=False)
    low_memory: bool = field(default=False, compare=False)

    @property
    def title(self) -> str:
        return f"unit {self.unit}"


@dataclass(frozen=True)
class FinishShard:
    """All units of a shard are done: make it visible."""

    shard: int

    @property
    def title(self) -> str:
        return f"shard {self.shard + 1}"


@dataclass(frozen=True)
class Publish:
    """All shards are finished: companion files, then the index."""

    record: RunRecord | None = field(default=None, compare=False)

    @property
    def title(self) -> str:
        return "publishing"


Instruction = RunUnit | FinishShard | Publish


@dataclass(frozen=True)
class Done:
    """An instruction was carried out; a unit left a receipt."""

    instruction: Instruction
    receipt: Receipt | None = None


@dataclass(frozen=True)
class Failed:
    """An instruction failed. ``lost``: its worker went away, so another attempt may do; ``silent``: it did not answer
    in time; ``killed``: its process ended, for memory as a rule, and not its node."""

    instruction: Instruction
    error: SvcDistError
    lost: bool = False
    silent: bool = False
    killed: bool = False


@dataclass(frozen=True)
class Capacity:
    """The nodes that there are, by an id of each."""

    nodes: Mapping[str, Node]


@dataclass(frozen=True)
class Drain:
    """Stop in order: start nothing more."""


Event = Done | Failed | Capacity | Drain


@dataclass(frozen=True)
class Failure:
    """What failed for good: the error of its last attempt, how many there were, and the node of the last."""

    instruction: Instruction
    error: SvcDistError
    attempts: int
    node: str


@dataclass
class Schedule:
    """Decides what runs where, for any executor.

    The unit with most work comes first, on a node whose slots and memory have room for it beside what is in flight
    there (``sink_memory`` for what it writes included). While it has none, the node that will is kept free for it, and
    smaller units go to the others. At most ``slots`` units are in flight on all nodes.

    A transient failure is tried again up to ``max_attempts`` times, on another node where there is one; any other stops
    new work, lets what is in flight finish, and stays in ``failures``.
    """

    plan: Plan
    nodes: Mapping[str, Node]
    slots: int | None = None
    done: Collection[str] = ()
    finished: Collection[int] = ()
    max_attempts: int = 3
    sink_memory: int = 0

    waiting: deque[str] = field(init=False)
    in_flight: dict[Instruction, None] = field(init=False, default_factory=dict)
    attempts: dict[Instruction, int] = field(init=False, default_factory=dict)
    failures: dict[str, Failure] = field(init=False, default_factory=dict)
    draining: bool = field(init=False, default=False)
    published: bool = field(init=False, default=False)
    retries: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self._placement = Placement(self.nodes)
        self._lost_on: dict[str, list[str]] = {}
        self._kills: dict[str, int] = {}
        left = [unit for unit in self.plan.units if unit.id not in self.done]
        self.waiting = deque(unit.id for unit in sorted(left, key=lambda unit: (-unit.work, unit.id)))
        self._open = [0] * len(self.plan.shards)
        for unit in left:
            for shard in self.plan.written(unit):
                self._open[shard] += 1
        self._unfinished = {n: None for n in range(len(self.plan.shards)) if n not in self.finished or self._open[n]}

    @property
    def over(self) -> bool:
        """Nothing is in flight and nothing more will start."""
        return not self.in_flight and (self.published or self.draining or bool(self.failures))

    def start(self) -> list[Instruction]:
        """The first instructions."""
        ready: list[Instruction] = [FinishShard(shard) for shard in self._unfinished if not self._open[shard]]
        return self._issue([*ready, *self._publish_if_ready()])

    def handle(self, event: Event) -> list[Instruction]:
        """Take note of an event; what to start now."""
        if isinstance(event, Drain):
            self.draining = True
            return []
        if isinstance(event, Capacity):
            self._placement.resize(event.nodes)
            return self._issue([])
        if event.instruction not in self.in_flight:
            return []  # an answer after all from what was given up and done elsewhere
        self.in_flight.pop(event.instruction)
        place = self._placement.release(event.instruction)
        if isinstance(event, Failed):
            return self._failed(event, place)
        if place is not None:
            self._placement.trust(place.node)
        match event.instruction:
            case RunUnit(unit):
                written = self.plan.written(self.plan.unit[unit])
                for shard in written:
                    self._open[shard] -= 1
                return self._issue([FinishShard(shard) for shard in written if not self._open[shard]])
            case FinishShard(shard):
                self._unfinished.pop(shard, None)
                return self._issue(self._publish_if_ready())
            case Publish():
                self.published = True
        return []

    def _failed(self, event: Failed, place: Place | None) -> list[Instruction]:
        attempts = self.attempts[event.instruction]
        if place is not None and event.silent:
            self._placement.doubt(place.node)
        if (event.lost or isinstance(event.error, TransientStorageError)) and attempts < self.max_attempts:
            self.retries += 1
            if not isinstance(event.instruction, RunUnit):
                return self._issue([event.instruction])
            unit = event.instruction.unit
            if place is not None and event.lost:
                self._lost_on.setdefault(unit, []).append(place.node)
            self._kills[unit] = self._kills.get(unit, 0) + event.killed
            self.waiting.appendleft(unit)
            return self._issue([])
        node = self._placement.nodes.get(place.node) if place is not None else None
        name = node.name if node is not None else ""
        self.failures[event.instruction.title] = Failure(event.instruction, event.error, attempts, name)
        return []

    def _need(self, unit: str) -> Need:
        memory = self.plan.unit[unit].memory
        if self.plan.settings.device == "cpu":
            return Need(memory + self.sink_memory)
        return Need(ON_HOST + self.sink_memory, memory)

    def _publish_if_ready(self) -> list[Instruction]:
        return [Publish()] if not self._unfinished and not self.published else []

    def _issue(self, ready: list[Instruction]) -> list[Instruction]:
        if self.draining or self.failures:
            return []
        ready = [*ready, *self._placed()]
        for instruction in ready:
            self.in_flight[instruction] = None
            self.attempts[instruction] = self.attempts.get(instruction, 0) + 1
        return ready

    def _placed(self) -> list[RunUnit]:
        """The waiting units that have a place now, which they take."""
        running = sum(isinstance(item, RunUnit) for item in self.in_flight)
        placed: list[RunUnit] = []
        held: list[str] = []
        kept: str | None = None  # the node kept free for what waits longest
        without: dict[tuple[Need, tuple[str, ...]], None] = {}
        while self.waiting and not self._placement.full and (self.slots is None or running + len(placed) < self.slots):
            unit = self.waiting.popleft()
            need, avoid = self._need(unit), tuple(self._lost_on.get(unit, ()))
            place = None if (need, avoid) in without else self._placement.find(need, kept, avoid)
            if place is None:
                held.append(unit)
                without[need, avoid] = None
                kept = kept or self._placement.reserve(need, avoid)
                continue
            started = RunUnit(unit, place, low_memory=self._kills.get(unit, 0) == self.max_attempts - 1 > 0)
            self._placement.book(started, place)
            placed.append(started)
        self.waiting.extendleft(reversed(held))
        return placed
