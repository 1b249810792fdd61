"""One run of the command as a process: signals, the message of a failure, exit codes."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import threading
import traceback
from pathlib import Path
from typing import Any

import typer

from svc_dist.cli.app import app
from svc_dist.cli.help.usage import UsageError, refusal
from svc_dist.cli.streams import logs
from svc_dist.cli.streams.terminal import WARNING, WRONG, require_output, say, write_any_character
from svc_dist.errors import INTERNAL_ERROR, DrainedError, ExitCode, Interrupted, StorageError, SvcDistError

#: Codes of errors with many causes: their explanations' general advice misleads about a particular one.
_SEVERAL_CAUSES = frozenset(("arguments-refused", "input-changed", "output-refused", "verification-failed"))


def main() -> None:
    """Entry point: runs the command and ends the process with the documented exit code."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _interrupt)
    write_any_character()
    try:
        _end(_ended(), hard=False)
    except DrainedError as stop:  # as asked: no failure
        _say(stop.message, str(stop), label="stopped:", failed=False, exit_code=stop.exit_code, code=stop.code)
        _end(stop.exit_code, hard=True)
    except SvcDistError as error:
        hint = error.hint or _cure(error.code)
        lines = [error.message, *([] if hint is None else [f"  {hint}"])]
        lines += [] if error.code is None else [f"  explain: svc-dist recipe explain {error.code}"]
        _say(error.message, "\n".join(lines), label="error:", hint=hint, exit_code=error.exit_code, code=error.code)
        _end(error.exit_code, hard=error.exit_code == ExitCode.TRY_AGAIN)
    except Interrupted:
        text = "interrupted; run the same command again to resume"
        _say(text, text, exit_code=ExitCode.TRY_AGAIN)
        _end(ExitCode.TRY_AGAIN, hard=True)
    except BrokenPipeError:
        _end(ExitCode.DONE, hard=True)
    except Exception:  # a bug: show the whole trace
        from svc_dist.storage.secrets import redact

        text, trace = INTERNAL_ERROR, redact(traceback.format_exc())
        _say(text, f"{trace}{text}", trace=trace, exit_code=ExitCode.INTERNAL)
        _end(ExitCode.INTERNAL, hard=False)


def _ended() -> int:
    """Run the command. Once it has ended, no signal keeps it from saying why, nor changes its exit code."""
    try:
        code = _run()
        if code == ExitCode.DONE:
            require_output()
        return code
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)


def _cure(code: str | None) -> str | None:
    """What to do about an error that does not say it itself: what its code's explanation says, if it has one cause."""
    from svc_dist.recipe.writing.explanations import explanations

    return explanations()[code].do if code in explanations() and code not in _SEVERAL_CAUSES else None


def _run() -> int:
    """Run the command. What typer refuses of its arguments is an error like all others."""
    try:
        Path.cwd()
    except OSError:
        raise StorageError("the working folder no longer exists", "run the command in another folder") from None
    try:
        ended = app(standalone_mode=False)
        return ended if isinstance(ended, int) else ExitCode.DONE  # what a command returns is for callers in Python
    except UsageError as error:
        refused = refusal(error)
        if refused is not None:
            raise refused from None
        with contextlib.suppress(OSError):  # nobody can read it: the exit code is the same
            error.show()
        return ExitCode.USAGE
    except typer.Abort:
        return ExitCode.USAGE


def _interrupt(number: int, frame: object) -> None:
    raise Interrupted


def _say(message: str, text: str, label: str = "", failed: bool = True, **fields: Any) -> None:
    """Say why a command ended: in a log line with fields where the log is JSON, else in a text."""
    if logs.is_json():
        level = logging.ERROR if failed else logging.WARNING
        logging.getLogger("svc_dist").log(level, message, extra={"fields": fields})
    else:
        say(text, label=label, colour=WRONG if failed else WARNING, err=True)


def _end(code: int, hard: bool) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: os._exit(code))  # all is said
    if hard and threading.active_count() > 1:
        with contextlib.suppress(OSError):
            sys.stderr.flush()
        os._exit(code)  # units that outlived the grace period must not keep the process
    sys.exit(code)
