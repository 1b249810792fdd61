"""A batch: merges one after the other, of which one that fails does not stop the next."""

from __future__ import annotations

import logging
import threading
import time
import traceback
from collections.abc import Callable

from svc_dist.errors import INTERNAL_ERROR, DeviceFailedError, DrainedError, ExitCode, SvcDistError
from svc_dist.run.batch.jobs import Job
from svc_dist.run.batch.record import BatchRecord, Row
from svc_dist.run.devices.chosen import shared_connection
from svc_dist.run.session import MergeSummary
from svc_dist.run.signals.outcome import Outcome
from svc_dist.run.signals.stopping import recorded_stop
from svc_dist.sizes import counted
from svc_dist.storage.secrets import redact

#: Merges one of them; ``runtime``: the seconds that are left for it, None for no limit.
Merge = Callable[[Job, float | None], MergeSummary]
_log = logging.getLogger("svc_dist")


def run_batch(record: BatchRecord, merge: Merge, runtime: float | None = None) -> None:
    """Merge what the record lists. What is complete already takes a look; what is unfinished is resumed.

    All merges share one connection to their cluster. After a GPU of this process failed, none begins any more.
    ``runtime``: seconds after which it stops. Raises what stopped a merge before its end (an error of exit code 75, or
    an interruption), after the record says so: the same command again resumes. StorageError where the record cannot
    be written.
    """
    record.write()  # where that fails, nothing is merged
    try:
        with recorded_stop() as asked, shared_connection():
            _run_all(record, merge, runtime, asked)
    except BaseException:
        record.close(stopped=True)
        raise
    record.close(stopped=False)


def _run_all(record: BatchRecord, merge: Merge, runtime: float | None, asked: threading.Event) -> None:
    """The merges in turn. ``asked``: set once one of them was asked to stop, however it ended."""
    until = None if runtime is None else time.monotonic() + runtime
    for number, row in enumerate(record.rows):
        left = None if until is None else until - time.monotonic()
        if asked.is_set() or (left is not None and left <= 0):
            why = "asked to stop" if asked.is_set() else "time is up"
            raise DrainedError(
                f"{why}: {counted(len(record.rows) - number, 'merge')} of the batch have not begun",
                "run the same command again to resume",
            )
        _log.info(f"merge {number + 1} of {len(record.rows)}: {row.job.name}")
        record.began(row)
        _run(record, row, merge, left)
        rest = len(record.rows) - number - 1
        if row.code == DeviceFailedError.code and rest:
            _log.error(
                f"error: {counted(rest, 'merge')} of the batch did not begin: after its GPU failed, CUDA computes "
                "nothing more in this process\n  run the same command again: it resumes in a new process; if the same "
                "GPU fails again, leave it out with CUDA_VISIBLE_DEVICES"
            )
            return


def _run(record: BatchRecord, row: Row, merge: Merge, left: float | None) -> None:
    """One merge and its outcome. Raises only what stops the batch."""
    began, summary = time.time(), None
    raised: BaseException | None = None
    try:
        summary = merge(row.job, left)
    except BaseException as error:
        raised = error
    outcome = Outcome.of(row.job.output, began, summary, raised)
    code = raised.code if isinstance(raised, SvcDistError) else None
    record.ended(row, outcome, code)
    if raised is None:
        return
    if outcome.exit_code == ExitCode.TRY_AGAIN or not isinstance(raised, Exception):
        raise raised
    trace = "".join(traceback.format_exception(raised))
    text = str(raised) if isinstance(raised, SvcDistError) else f"{INTERNAL_ERROR}\n{trace}"
    fields = {"merge": row.job.name, "exit_code": outcome.exit_code, "code": code}
    _log.error(f"error: {row.job.name}: {redact(text)}", extra={"fields": fields})
