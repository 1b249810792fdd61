"""One run of the command as a process: signals, last words, exit codes."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import traceback
from typing import TYPE_CHECKING, Any

from svc_dist.cli import logs
from svc_dist.errors import ExitCode, Interrupted, SvcDistError

if TYPE_CHECKING:
    pass
from svc_dist.cli.commands import app


def main() -> None:
    """Entry point: runs the command and ends the process with the documented exit code."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _interrupt)
    try:
        app()
    except SvcDistError as error:
        _say(error.message, f"error: {error}", hint=error.hint, exit_code=error.exit_code)
        _end(error.exit_code, hard=error.exit_code == ExitCode.TRY_AGAIN)
    except Interrupted:
        said = "interrupted; start the same command again to go on"
        _say(said, said, exit_code=ExitCode.TRY_AGAIN)
        _end(ExitCode.TRY_AGAIN, hard=True)
    except BrokenPipeError:
        _end(ExitCode.DONE, hard=True)
    except Exception:  # a bug, not a user's error: show it whole, and end with the code that says so
        from svc_dist.storage.secrets import redact

        said, trace = "internal error in svc-dist; please report it with its trace", redact(traceback.format_exc())
        _say(said, f"{trace}{said}", trace=trace, exit_code=ExitCode.INTERNAL)
        _end(ExitCode.INTERNAL, hard=False)


def _interrupt(number: int, frame: object) -> None:
    raise Interrupted


def _say(message: str, text: str, **fields: Any) -> None:
    """The last word of a command that failed: a log line with fields where lines are JSON, else a text."""
    if logs.is_json():
        logging.getLogger("svc_dist").error(message, extra={"fields": fields})
    else:
        print(text, file=sys.stderr)


def _end(code: int, hard: bool) -> None:
    if hard and threading.active_count() > 1:
        sys.stderr.flush()
        os._exit(code)  # units that outlived the grace period must not keep the process
    sys.exit(code)
