"""How a start of a merge ended, as plain data for hooks, requests and metrics."""

from __future__ import annotations

import socket
import time
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from svc_dist import __version__
from svc_dist.errors import ExitCode, Interrupted, SvcDistError
from svc_dist.run.session import MergeSummary
from svc_dist.run_folder.report import utc
from svc_dist.run_folder.starts.run_id import RUN_ID
from svc_dist.storage.secrets import redact


class Ended(StrEnum):
    """The result of a start."""

    COMPLETE = "complete"
    UNCHANGED = "unchanged"  # complete before: nothing was merged
    STOPPED = "stopped"  # on request, or the cluster was lost: to be resumed
    FAILED = "failed"
    BUSY = "busy"  # another start merges into this output, and tells its own result


@dataclass(frozen=True)
class Outcome:
    """How a start ended. ``started`` and ``ended``: seconds since the epoch; ``summary``: where it succeeded."""

    output: str
    state: Ended
    exit_code: int
    error: str | None
    started: float
    ended: float
    summary: MergeSummary | None

    @classmethod
    def of(cls, output: str, began: float, summary: MergeSummary | None, error: BaseException | None) -> Outcome:
        """From what a merge returned, or raised."""
        where = output if summary is None else summary.output
        if error is None:
            state = Ended.UNCHANGED if summary is None or summary.executor == "none" else Ended.COMPLETE
            return cls(redact(where), state, ExitCode.DONE, None, began, time.time(), summary)
        code, text = _code(error), error.message if isinstance(error, SvcDistError) else type(error).__name__
        state = {ExitCode.TRY_AGAIN: Ended.STOPPED, ExitCode.LOCKED: Ended.BUSY}.get(code, Ended.FAILED)
        return cls(redact(where), state, code, redact(text), began, time.time(), summary)

    def data(self) -> dict[str, Any]:
        """Plain data for JSON, without anything secret."""
        counts = ("fingerprint", "units", "units_resumed", "retries", "bytes_in", "bytes_out")
        summary = {} if self.summary is None else asdict(self.summary)
        return {
            "state": self.state,
            "exit_code": self.exit_code,
            "error": self.error,
            "output": self.output,
            "run": RUN_ID,
            "host": socket.gethostname(),
            "started": utc(self.started),
            "ended": utc(self.ended),
            "seconds": round(self.ended - self.started, 3),
            **{key: summary.get(key) for key in counts},
            "svc_dist": __version__,
        }


def _code(error: BaseException) -> int:
    if isinstance(error, SvcDistError):
        return error.exit_code
    return ExitCode.TRY_AGAIN if isinstance(error, Interrupted | KeyboardInterrupt) else ExitCode.INTERNAL
