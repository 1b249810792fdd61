"""How far a batch is and how its merges ended: a table for people, JSON for programs."""

from __future__ import annotations

import json
import logging
import socket
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from svc_dist import __version__
from svc_dist.errors import ExitCode, StorageError, printable
from svc_dist.run.batch.jobs import Job
from svc_dist.run.signals.outcome import Ended, Outcome
from svc_dist.run_folder.report import utc
from svc_dist.run_folder.starts.run_id import RUN_ID
from svc_dist.sizes import counted, format_size
from svc_dist.storage.access import Access
from svc_dist.storage.local import require_replaceable
from svc_dist.storage.open import open_storage
from svc_dist.storage.secrets import redact

#: Exit codes of failed merges, the worst first. Those after which another start may help come before those after which
#: it cannot, so that a scheduler repeats the batch as long as that is of use. That another start was at work is no
#: failure, so it hides none.
WORST = (
    ExitCode.INTERNAL,
    ExitCode.UNITS_FAILED,
    ExitCode.STORAGE,
    ExitCode.INPUT,
    ExitCode.USAGE,
    ExitCode.LOCKED,
)
WAITING, RUNNING = "waiting", "running"
_LONGEST = 160  # characters of an error in the table
#: What of each outcome is the same in all of them.
_COMMON = ("run", "host", "svc_dist")
_log = logging.getLogger("svc_dist")


@dataclass
class Row:
    """One merge of a batch. ``outcome``: once it has ended; ``code``: of its error."""

    job: Job
    state: str = WAITING
    outcome: Outcome | None = None
    code: str | None = None

    def data(self) -> dict[str, Any]:
        job, own = self.job, {} if self.outcome is None else self.outcome.data()
        given = {"name": job.name, "recipe": redact(job.recipe), "output": redact(job.output), "state": self.state}
        return given | {key: value for key, value in own.items() if key not in _COMMON} | {"code": self.code}


class BatchRecord:
    """The merges of a batch, and the JSON file that says how far they are. ``location``: of that file, or its URL."""

    def __init__(self, jobs: Sequence[Job], location: str, access: Access) -> None:
        self.rows = [Row(job) for job in jobs]
        self.location = location
        if "://" not in location:
            require_replaceable(Path(location))
        folder, _, self._name = location.rpartition("/")
        self._storage = open_storage(folder or ("/" if location.startswith("/") else "."), access)
        self._began, self._ended, self._stopped = time.time(), 0.0, False

    def began(self, row: Row) -> None:
        row.state = RUNNING
        self._update()

    def ended(self, row: Row, outcome: Outcome, code: str | None) -> None:
        row.state, row.outcome, row.code = outcome.state, outcome, code
        self._update()

    def close(self, stopped: bool) -> None:
        """The batch has ended; ``stopped``: before all of its merges had their turn, or within one."""
        self._ended, self._stopped = time.time(), stopped
        self._update()

    @property
    def exit_code(self) -> int:
        """The worst exit code of its merges; of a batch that was stopped always 75."""
        if self._stopped:
            return ExitCode.TRY_AGAIN
        codes = {row.outcome.exit_code for row in self.rows if row.outcome is not None}
        return next((code for code in WORST if code in codes), ExitCode.DONE)

    @property
    def state(self) -> str:
        if not self._ended:
            return RUNNING
        if self._stopped:
            return Ended.STOPPED
        return Ended.COMPLETE if self.exit_code == ExitCode.DONE else Ended.FAILED

    def data(self) -> dict[str, Any]:
        """Plain data for JSON, without anything secret."""
        now = self._ended or time.time()
        return {
            "state": self.state,
            "exit_code": self.exit_code if self._ended else None,
            "run": RUN_ID,
            "host": socket.gethostname(),
            "started": utc(self._began),
            "updated": utc(now),
            "seconds": round(now - self._began, 3),
            "merges": [row.data() for row in self.rows],
            "svc_dist": __version__,
        }

    def write(self) -> None:
        """Replace the JSON file in one step. Raises StorageError."""
        self._storage.put(self._name, json.dumps(self.data(), indent=1).encode())

    def _update(self) -> None:
        """Write it where that is possible: the merges matter more than the file about them."""
        try:
            self.write()
        except StorageError as error:
            _log.warning(f"warning: the report of the batch was not written: {error.message}")

    def table(self) -> Iterator[str]:
        """The merges in lines, then the errors, then a sum."""
        lines = [("recipe", "result", "exit", "seconds", "written", "output"), *map(_cells, self.rows)]
        widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
        for line in lines:
            yield "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for row in self.rows:
            if row.outcome is not None and row.outcome.error is not None:
                first = printable(row.outcome.error.splitlines()[0])
                yield f"{row.job.name}: {first if len(first) <= _LONGEST else first[:_LONGEST] + '...'}"
        done = sum(row.outcome is not None and row.outcome.exit_code == ExitCode.DONE for row in self.rows)
        yield f"{done} of {counted(len(self.rows), 'merge')} complete; report: {redact(self.location)}"


def _cells(row: Row) -> tuple[str, ...]:
    name, outcome = printable(row.job.name), row.outcome
    if outcome is None:
        return name, row.state, "", "", "", redact(row.job.output)
    summary = outcome.summary
    written = format_size(summary.bytes_out) if summary is not None else ""
    seconds = f"{outcome.ended - outcome.started:.1f}"
    return name, str(outcome.state), str(outcome.exit_code), seconds, written, outcome.output
