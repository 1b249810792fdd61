"""A command of the user's that runs after a merge."""

from __future__ import annotations

import logging
import tempfile
from collections import deque
from typing import IO

from svc_dist.run.signals.outcome import Outcome
from svc_dist.run.signals.shell import run_line
from svc_dist.storage.secrets import redact

_LINES = 50  # of a command's output that the log repeats
_log = logging.getLogger("svc_dist")


def run_hook(option: str, command: str, outcome: Outcome, timeout: float) -> None:
    """Run a command by the shell with the outcome in its environment. A command that fails is a warning.

    After ``timeout`` seconds it is ended. Whatever it has started ends with it. The log has the end of what it writes.
    """
    data = outcome.data()
    names = ("state", "exit_code", "error", "output", "run", "seconds")
    values = {f"SVC_DIST_{'RUN_ID' if name == 'run' else name.upper()}": data[name] for name in names}
    variables = {name: "" if value is None else str(value) for name, value in values.items()}
    lines: deque[str] = deque(maxlen=_LINES)
    try:
        with tempfile.TemporaryFile() as written:
            problem = _problem(command, variables, written, timeout)
            written.seek(0)
            lines.extend(line.decode("utf-8", "replace").rstrip() for line in written)
    except OSError as error:  # no space for a temporary file
        problem = f"could not start: {error.strerror}"
    for line in filter(None, lines):
        _log.info(f"{option}: {redact(line)}")
    if problem is not None:
        _log.warning(f"warning: the command of {option} {problem}; the merge's exit code stays {outcome.exit_code}")


def _problem(command: str, variables: dict[str, str], output: IO[bytes], timeout: float) -> str | None:
    """Run a command. Why it failed; None where it did not."""
    try:
        code = run_line(command, variables, output, output, timeout)
    except (OSError, ValueError) as error:
        return f"could not start: {error}"
    if code is None:
        return f"was killed after {timeout:g} s (--hook-timeout)"
    return None if code == 0 else f"ended with exit code {code}"
