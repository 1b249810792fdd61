"""The state and progress of a run, which anyone can read from its folder."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

import msgspec

from svc_dist.errors import DamagedInputError, ExitCode, OutputError
from svc_dist.plan.model import Plan
from svc_dist.recipe.documents import title
from svc_dist.run.progress import clock
from svc_dist.run_folder.documents.records import DocumentRecord, pending, recorded_documents
from svc_dist.run_folder.journal import FailureRecord, describe_failure
from svc_dist.run_folder.output import Output
from svc_dist.run_folder.published import completed
from svc_dist.run_folder.report import LARGEST, REPORT_FILE, PublishedMerge, utc
from svc_dist.run_folder.series.pointer import resolved
from svc_dist.run_folder.starts.record import StartRecord, read_start
from svc_dist.sizes import counted, format_size
from svc_dist.storage.access import DEFAULT_ACCESS, Access


class State(StrEnum):
    """The state of a run, or of one of its documents."""

    WAITING = "waiting"  # only of a document: those before it are not merged yet
    RUNNING = "running"
    STOPPED = "stopped"
    FAILED = "failed"
    COMPLETE = "complete"


@dataclass(frozen=True)
class DocumentStatus:
    """The state of one of several documents, and how many of its units are done."""

    state: State
    units: int
    done: int

    def text(self) -> str:
        if self.state in (State.COMPLETE, State.WAITING):
            return self.state
        return f"{self.state}, {self.done:,} of {counted(self.units, 'unit')} done"


@dataclass(frozen=True)
class Status:
    """``state``; units done and left, bytes written, share of the estimated work; of the last start its ``run`` id,
    host and process, when it ``started`` and last advanced (``updated``), and the seconds that are left.

    ``exit_code``, ``error`` and ``failed``: how a start ended that failed. ``documents``: each, if several.
    """

    output: str
    state: State
    run: str | None = None
    host: str | None = None
    pid: int | None = None
    started: str | None = None
    updated: str | None = None
    eta_seconds: float | None = None
    units: int = 0
    done: int = 0
    left: int = 0
    bytes_out: int = 0
    bytes_done: int = 0
    work_share: float = 0.0
    exit_code: int | None = None
    error: str | None = None
    failed: dict[str, FailureRecord] = field(default_factory=dict)
    documents: dict[str, DocumentStatus] = field(default_factory=dict)

    def __repr__(self) -> str:
        first, *more = self.text().splitlines()
        return f"<Status {first}{f'; {more[0]}' if more else ''}>"

    def text(self) -> str:
        """A few lines for a terminal."""
        if self.state is State.COMPLETE:
            when = f", finished {self.updated}" if self.updated else ""
            return f"{self.output}: complete, {counted(self.units, 'unit')}, {format_size(self.bytes_out)}{when}"
        eta = f", about {clock(self.eta_seconds)} left" if self.eta_seconds is not None else ""
        lines = [
            f"{self.output}: {self._headline()}",
            f"units: {self.done:,} of {self.units:,} done ({self.work_share:.0%} of the work), {self.left:,} left, "
            f"{len(self.failed):,} failed",
            f"written: {format_size(self.bytes_done)} of {format_size(self.bytes_out)}{eta}",
        ]
        lines += [f"{name}: {one.text()}" for name, one in self.documents.items()]
        return "\n".join(
            lines + ["failed:" + describe_failure(name, record)[1:] for name, record in self.failed.items()]
        )

    def _headline(self) -> str:
        if self.state is State.RUNNING:
            since = f" since {self.started}" if self.started else ""
            return f"running{f' on {self.host}' if self.host else ''}{since}"
        reason = f" (exit code {self.exit_code}): {self.error}" if self.state is State.FAILED and self.error else ""
        return f"{self.state}{reason}; run the same command again to resume"


def read_status(location: str, access: Access = DEFAULT_ACCESS) -> Status:
    """Read the run folder of an output. Raises OutputError when there is neither a run nor a finished merge."""
    location = resolved(location, access)
    output = Output(location, access, reading=True)
    if (published := completed(output)) is not None:
        return _complete(output, location, published)
    records = recorded_documents(output)
    plan = output.journal.plan() if records is None else None
    if plan is None and records is None:
        state, hint = "merge", "check the path; a merge that has just started may not have a plan yet"
        if output.storage.read_only is not None:
            state = "complete merge"
            hint = "until its upload is complete, the staging folder shows the progress: svc-dist status FOLDER"
        raise OutputError(f"{location} holds no {state}", hint)
    holder = output.lock().holder()
    parts = [_part(output, plan)] if plan is not None else _parts_of_documents(output, records or ())
    units, done, work, work_done, bytes_out, bytes_done = (sum(column) for column in zip(*parts, strict=True))
    left = [] if records is None else pending(output, records)
    current = output if records is None or not left else left[0].output(output)
    start = read_start(current.journal.storage)
    failed = {} if holder is not None else current.journal.failures()
    state = State.RUNNING if holder is not None else _ended(start, failed)
    if holder is not None and (start is None or start.ended is not None):  # it has not begun with units yet
        start = StartRecord("", str(holder.get("host", "")), int(holder.get("pid", 0)), 0.0, holder["heartbeat"])
    status = Status(
        output=location,
        state=state,
        units=int(units),
        done=int(done),
        left=int(units - done),
        bytes_out=int(bytes_out),
        bytes_done=int(bytes_done),
        work_share=work_done / work if work else 1.0,
        failed=failed,
        documents=_documents(records or (), parts, [record.name for record in left], state),
    )
    return status if start is None else _with_start(status, start)


def _ended(start: StartRecord | None, failed: dict[str, FailureRecord]) -> State:
    """The state of a run that nobody holds. One that was killed could not say how it ended."""
    code = None if start is None else start.exit_code
    return State.FAILED if failed or code not in (None, ExitCode.TRY_AGAIN) else State.STOPPED


def _with_start(status: Status, start: StartRecord) -> Status:
    eta = start.eta_seconds if status.state is State.RUNNING else None
    return replace(
        status,
        run=start.run or None,
        host=start.host or None,
        pid=start.pid or None,
        started=utc(start.started) if start.started else None,
        updated=utc(start.ended or start.updated),
        eta_seconds=None if eta is None else max(eta - (time.time() - start.updated), 0.0),
        exit_code=start.exit_code,
        error=start.error,
    )


class _Report(msgspec.Struct):
    """What of a report says how much a merge was."""

    finished: str
    bytes_out: int
    ranges: list[msgspec.Raw]
    hosts: list[str]
    last_start: dict[str, object] | None = None


_REPORT = msgspec.json.Decoder(_Report)  # made by the thread that imports this, as msgspec needs it


def _complete(output: Output, location: str, published: PublishedMerge) -> Status:
    file = next((name for name in published.files if name.rpartition("/")[2] == REPORT_FILE), REPORT_FILE)
    report = _Report("", 0, [], [])
    with contextlib.suppress(ValueError, RecursionError, DamagedInputError):
        report = _REPORT.decode(output.storage.get_within(file, LARGEST) or b"")
    start = report.last_start or {}
    host, pid = start.get("host") or next(iter(report.hosts), None), start.get("pid")
    return Status(
        output=location,
        state=State.COMPLETE,
        run=_text(start.get("run")),
        host=_text(host),
        pid=pid if isinstance(pid, int) else None,
        started=_text(start.get("started")),
        updated=report.finished or None,
        eta_seconds=0.0,
        units=len(report.ranges),
        done=len(report.ranges),
        bytes_out=report.bytes_out,
        bytes_done=report.bytes_out,
        work_share=1.0,
        exit_code=ExitCode.DONE,
    )


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


#: Units, units done, work, work done, bytes to write, bytes written.
_Part = tuple[float, float, float, float, float, float]


def _part(output: Output, plan: Plan) -> _Part:
    done = [plan.unit[unit] for unit in output.journal.receipts(plan)]
    work = sum(unit.work for unit in plan.units)
    work_done, bytes_done = sum(unit.work for unit in done), sum(unit.bytes_out for unit in done)
    return len(plan.units), len(done), work, work_done, plan.bytes_out, bytes_done


def _parts_of_documents(output: Output, records: Sequence[DocumentRecord]) -> list[_Part]:
    left, parts = pending(output, records), list[_Part]()
    for record in records:
        plan = record.output(output).journal.plan() if record in left else None
        if plan is not None:
            parts.append(_part(record.output(output), plan))
        else:
            share = 0 if record in left else 1
            sizes = (record.units, record.work, record.bytes_out)
            parts.append((sizes[0], sizes[0] * share, sizes[1], sizes[1] * share, sizes[2], sizes[2] * share))
    return parts


def _documents(
    records: Sequence[DocumentRecord], parts: Sequence[_Part], left: Sequence[str | None], state: State
) -> dict[str, DocumentStatus]:
    """The state of each document: the first that is left has that of the run."""
    states = [
        State.COMPLETE if record.name not in left else state if record.name == left[0] else State.WAITING
        for record in records
    ]
    return {
        title(record.name): DocumentStatus(one, int(part[0]), int(part[1]))
        for record, part, one in zip(records, parts, states, strict=False)  # a single merge has a part and no record
    }
