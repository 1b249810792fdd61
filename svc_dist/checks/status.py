"""The progress of a run, which anyone can read from its folder."""

from __future__ import annotations

from dataclasses import dataclass, field

from svc_dist.errors import OutputError
from svc_dist.run_folder.journal import FailureRecord, describe_failure
from svc_dist.run_folder.output import Output
from svc_dist.run_folder.published import completed
from svc_dist.sizes import format_size
from svc_dist.storage.access import DEFAULT_ACCESS, Access


@dataclass(frozen=True)
class Status:
    """``state``: complete, running, or stopped. Units done and left, bytes written, share of the estimated work."""

    output: str
    state: str
    units: int = 0
    done: int = 0
    left: int = 0
    bytes_out: int = 0
    bytes_done: int = 0
    work_share: float = 0.0
    failed: dict[str, FailureRecord] = field(default_factory=dict)

    def text(self) -> str:
        """A few lines for a terminal."""
        if self.state == "complete":
            return f"{self.output}: complete"
        share = f"{self.work_share:.0%} of the work"
        lines = [
            f"{self.output}: {self.state}",
            f"units: {self.done:,} of {self.units:,} done ({share}), {self.left:,} left, {len(self.failed):,} failed",
            f"written: {format_size(self.bytes_done)} of {format_size(self.bytes_out)}",
        ]
        return "\n".join(
            lines + ["failed:" + describe_failure(name, record)[1:] for name, record in self.failed.items()]
        )


def read_status(location: str, access: Access = DEFAULT_ACCESS) -> Status:
    """Read the run folder of an output. Raises OutputError when there is neither a run nor a finished merge."""
    output = Output(location, access)
    if completed(output) is not None:
        return Status(location, "complete")
    plan = output.journal.plan()
    if plan is None:
        raise OutputError(
            f"{location} holds no merge", "check the path; a merge that has just started may not have a plan yet"
        )
    done = output.journal.receipts(plan)
    work = sum(unit.work for unit in plan.units)
    running = output.lock().holder() is not None
    return Status(
        output=location,
        state="running" if running else "stopped; run the same command again to resume",
        units=len(plan.units),
        done=len(done),
        left=len(plan.units) - len(done),
        bytes_out=plan.bytes_out,
        bytes_done=sum(plan.unit[unit].bytes_out for unit in done),
        work_share=sum(plan.unit[unit].work for unit in done) / work if work else 1.0,
        failed={} if running else output.journal.failures(),
    )
