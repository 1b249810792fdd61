"""One worker of a run: what it keeps open between instructions, and how it carries them out."""

from __future__ import annotations

import logging

from svc_dist.errors import ChangedInputError
from svc_dist.plan.model import Plan
from svc_dist.run.publish import publish
from svc_dist.run.schedule import FinishShard, Instruction, Publish, RunUnit
from svc_dist.run_folder.output import Output
from svc_dist.run_folder.receipt import Receipt
from svc_dist.storage.access import DEFAULT_ACCESS, Access
from svc_dist.storage.reading import Source
from svc_dist.storage.writing.base import LostRangesError

_log = logging.getLogger("svc_dist")
_FINISH_TRIES = 4


class Worker:
    """Carries out instructions of one run. Needs nothing but the output's location: the plan is in the run folder."""

    def __init__(
        self,
        output: str,
        fingerprint: str,
        scratch: str | None = None,
        access: Access = DEFAULT_ACCESS,
        plan: Plan | None = None,
    ) -> None:
        self.output = Output(output, access)
        self.journal = self.output.journal
        found = plan if plan is not None else self.journal.plan()
        if found is None or found.fingerprint != fingerprint:
            raise ChangedInputError(
                f"{output}: the run folder no longer holds this run's plan", "start the command again"
            )
        self.plan = found
        self.sink = self.output.sink(fingerprint)
        self.scratch = scratch
        self.sources = [Source(model.location, model.files, access) for model in self.plan.inputs]

    def carry_out(self, instruction: Instruction) -> Receipt | None:
        """Do one instruction; a unit's receipt is recorded before this returns."""
        match instruction:
            case RunUnit(unit, _, low_memory):
                from svc_dist.run.unit import run_unit

                parallel = self.output.access.parallel
                receipt = run_unit(
                    self.plan, self.plan.unit[unit], self.sources, self.sink, self.scratch, parallel, low_memory
                )
                self.journal.record(receipt)
                return receipt
            case FinishShard(shard):
                self._finish(shard)
            case Publish(record):
                publish(self.plan, self.output, record)
        return None

    def _finish(self, shard: int) -> None:
        """Finish a shard; parts that the store does not hold as they were sent are written again."""
        for _ in range(_FINISH_TRIES - 1):
            try:
                self.sink.finish(self.plan.shards[shard], self.journal.tokens(self.plan, shard))
                return
            except LostRangesError as error:
                _log.warning(f"{error.message}: writing what is missing again")
            lost = self.journal.lost(self.plan, shard, self.sink)
            self.sink.prepare([self.plan.shards[shard]])  # there may be no upload any more
            for unit in lost:
                self.carry_out(RunUnit(unit))
        self.sink.finish(self.plan.shards[shard], self.journal.tokens(self.plan, shard))
