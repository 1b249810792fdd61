"""One worker of a run: its open resources, and how it executes instructions."""

from __future__ import annotations

from dataclasses import replace

from svc_dist.errors import ChangedInputError
from svc_dist.plan.model import Plan
from svc_dist.run.host import available_memory, landing_memory
from svc_dist.run.pipeline.flow import READERS
from svc_dist.run.pipeline.needs import Needs
from svc_dist.run.pipeline.stages import Stages
from svc_dist.run.publish import publish
from svc_dist.run.results.compiled import load_loops
from svc_dist.run.schedule import Done, FinishShard, Instruction, Publish, RangesLost, RunUnit
from svc_dist.run_folder.output import Output
from svc_dist.run_folder.shard_check import require_unaltered
from svc_dist.storage.access import DEFAULT_ACCESS, Access
from svc_dist.storage.fetching import Connections
from svc_dist.storage.landing import Landing
from svc_dist.storage.reading import Source
from svc_dist.storage.writing.base import LostRangesError


class Worker:
    """Executes instructions of one run. Needs only the output's location: the plan is in the run folder.

    ``has_host``: units that do not fit onto its GPU may run on the cores here; else DeviceTooSmallError.
    ``window``: bytes for inputs of all units of this process that have not computed; ``lanes``: units that compute;
    ``host_lanes``: on cores, where the others do on a device.
    """

    def __init__(
        self,
        output: str,
        fingerprint: str,
        scratch: str | None = None,
        access: Access = DEFAULT_ACCESS,
        plan: Plan | None = None,
        has_host: bool = True,
        window: int | None = None,
        lanes: int = 1,
        host_lanes: int = 1,
    ) -> None:
        access = replace(access, patience=access.deadline)  # the storages have answered the driver
        self.output = Output(output, access)
        self.journal = self.output.journal
        recorded = plan if plan is not None else self.journal.plan()
        if recorded is None or recorded.fingerprint != fingerprint:
            raise ChangedInputError(
                f"{output}: the run folder no longer holds this run's plan", "run the same command again"
            )
        self.plan = recorded
        self.sink = self.output.sink(fingerprint)
        self.scratch, self._has_host, self._needs = scratch, has_host, Needs(recorded)
        window = landing_memory(recorded.settings) if window is None else window
        self.landing = Landing(window, available_memory)
        self._stages = Stages(window, lanes, host_lanes)
        self._connections = Connections(READERS * access.parallel)
        self.sources = [Source(model.location, model.files, access) for model in self.plan.inputs]

    def execute(self, instruction: Instruction) -> Done | RangesLost:
        """Execute one instruction; a unit's receipt is recorded before this returns."""
        match instruction:
            case RunUnit():
                return self._run(instruction)
            case FinishShard():
                return self._finish(instruction)
            case Publish(record):
                self._stages.require_going()
                publish(self.plan, self.output, record)
        return Done(instruction)

    def drain(self) -> None:
        """Let units that do not compute yet end with DrainedError."""
        self._stages.drain()

    def stop(self) -> None:
        """Let everything end with DrainedError at its next step, before it writes more: the run is over."""
        self._stages.stop()

    def _run(self, instruction: RunUnit) -> Done:
        from svc_dist.run.devices.fallback import ways_of
        from svc_dist.run.unit import run_unit

        # Another worker may have begun the upload of a unit that is written again.
        sink = self.output.sink(self.plan.fingerprint) if instruction.rewrite else self.sink
        unit, parallel = self.plan.unit[instruction.unit], self.output.access.parallel
        load_loops(self.plan, unit)
        ways = ways_of(self._needs, unit, instruction.low_memory, self._has_host, instruction.on_host)
        lanes = 1 if instruction.booking is None else instruction.booking.slots
        on_host = ways[0].device != self.plan.settings.device
        receipt = run_unit(
            self.plan, unit, self.sources, sink, self.scratch, parallel, ways, self.landing,
            self._stages.passage(unit.bytes_in, lanes, on_host), self._connections,
        )  # fmt: skip
        self._stages.require_going()
        self.journal.record(receipt)
        return Done(instruction, receipt)

    def _finish(self, instruction: FinishShard) -> Done | RangesLost:
        """Finish a shard in every result, or prepare the storage for the ranges that it has lost."""
        plan, number = self.plan, instruction.shard
        sink = self.output.sink(plan.fingerprint)  # of its own: others finish shards beside it
        shards = [plan.shards[shard] for shard in plan.shards_of(number)]
        try:
            if instruction.earlier and not sink.self_proving:
                require_unaltered(plan, self.output, sink, number, instruction.earlier, instruction.receipts)
            for shard, tokens in zip(shards, self.journal.tokens(plan, number, instruction.receipts), strict=True):
                self._stages.require_going()
                sink.finish(shard, tokens)
                identity = self.output.storage.stat(shard.file)
                if identity is not None:
                    self.journal.record_shard(identity)
        except LostRangesError as error:
            units = [unit.id for unit in plan.shard_units[number]]
            surviving = self.journal.surviving(plan, sink, self.output.storage.delete, number)
            sink.prepare(shards)
            return RangesLost(instruction, tuple(unit for unit in units if unit not in surviving), error)
        return Done(instruction)
