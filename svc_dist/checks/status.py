"""The progress of a run, which anyone can read from its folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from svc_dist.errors import OutputError
from svc_dist.plan.model import Plan
from svc_dist.recipe.documents import title
from svc_dist.run_folder.journal import FailureRecord, describe_failure
from svc_dist.run_folder.output import Output
from svc_dist.run_folder.published import completed
from svc_dist.run_folder.stages.records import StageRecord, pending, read_stages
from svc_dist.sizes import counted, format_size
from svc_dist.storage.access import DEFAULT_ACCESS, Access


@dataclass(frozen=True)
class Status:
    """``state``: complete, running, or stopped. Units done and left, bytes written, share of the estimated work.

    ``stages``: of several documents, the state of each.
    """

    output: str
    state: str
    units: int = 0
    done: int = 0
    left: int = 0
    bytes_out: int = 0
    bytes_done: int = 0
    work_share: float = 0.0
    failed: dict[str, FailureRecord] = field(default_factory=dict)
    stages: dict[str, str] = field(default_factory=dict)

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
        lines += [f"{name}: {state}" for name, state in self.stages.items()]
        return "\n".join(
            lines + ["failed:" + describe_failure(name, record)[1:] for name, record in self.failed.items()]
        )


def read_status(location: str, access: Access = DEFAULT_ACCESS) -> Status:
    """Read the run folder of an output. Raises OutputError when there is neither a run nor a finished merge."""
    output = Output(location, access)
    if completed(output) is not None:
        return Status(location, "complete")
    stages = read_stages(output)
    plan = output.journal.plan() if stages is None else None
    if plan is None and stages is None:
        raise OutputError(
            f"{location} holds no merge", "check the path; a merge that has just started may not have a plan yet"
        )
    running = output.lock().holder() is not None
    parts = [_part(output, plan)] if plan is not None else _parts_of_stages(output, stages or ())
    units, done, work, work_done, bytes_out, bytes_done = (sum(column) for column in zip(*parts, strict=True))
    left = [] if stages is None else pending(output, stages)
    failed = output if stages is None or not left else left[0].output(output)
    return Status(
        output=location,
        state="running" if running else "stopped; run the same command again to resume",
        units=int(units),
        done=int(done),
        left=int(units - done),
        bytes_out=int(bytes_out),
        bytes_done=int(bytes_done),
        work_share=work_done / work if work else 1.0,
        failed={} if running else failed.journal.failures(),
        stages={title(record.name): _state(part) for record, part in zip(stages or (), parts, strict=False) if stages},
    )


#: Units, units done, work, work done, bytes to write, bytes written.
_Part = tuple[float, float, float, float, float, float]


def _part(output: Output, plan: Plan) -> _Part:
    done = [plan.unit[unit] for unit in output.journal.receipts(plan)]
    work = sum(unit.work for unit in plan.units)
    work_done, bytes_done = sum(unit.work for unit in done), sum(unit.bytes_out for unit in done)
    return len(plan.units), len(done), work, work_done, plan.bytes_out, bytes_done


def _parts_of_stages(output: Output, stages: Sequence[StageRecord]) -> list[_Part]:
    left, parts = pending(output, stages), list[_Part]()
    for record in stages:
        plan = record.output(output).journal.plan() if record in left else None
        if plan is not None:
            parts.append(_part(record.output(output), plan))
        else:
            share = 0 if record in left else 1
            sizes = (record.units, record.work, record.bytes_out)
            parts.append((sizes[0], sizes[0] * share, sizes[1], sizes[1] * share, sizes[2], sizes[2] * share))
    return parts


def _state(part: _Part) -> str:
    return "merged" if part[0] == part[1] else f"{int(part[1]):,} of {counted(int(part[0]), 'unit')} done"
