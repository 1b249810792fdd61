"""A line of the user's that runs in a shell: it ends in time, with whatever it started."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Mapping
from typing import IO

_PATIENCE = 10.0  # seconds from SIGTERM to SIGKILL
_POLL = 0.02  # seconds


def run_line(
    line: str, variables: Mapping[str, str], out: IO[bytes], err: IO[bytes], timeout: float | None = None
) -> int | None:
    """The exit code of a line of ``/bin/sh``; None where it did not end in ``timeout`` seconds.

    ``variables``: added to the environment. What the line has started and left running ends with it, also where this
    process is interrupted. Raises OSError or ValueError where it cannot start.
    """
    process = subprocess.Popen(
        ["/bin/sh", "-c", line], env=os.environ | dict(variables), stdin=subprocess.DEVNULL, stdout=out, stderr=err,
        start_new_session=True,
    )  # fmt: skip
    try:
        return process.wait(timeout)
    except subprocess.TimeoutExpired:
        return None
    finally:
        _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the session of a line: it gets SIGTERM, and after some seconds SIGKILL."""
    _signal(process.pid, signal.SIGTERM)
    until = time.monotonic() + _PATIENCE
    while _signal(process.pid, 0) and time.monotonic() < until:
        if process.poll() is not None:  # an ended child counts until it is waited for; process 1 inherits them all
            with contextlib.suppress(ChildProcessError):
                os.waitpid(-process.pid, os.WNOHANG)
        time.sleep(_POLL)
    _signal(process.pid, signal.SIGKILL)
    process.wait()


def _signal(group: int, number: int) -> bool:
    """Send a signal to a session. Returns whether anything of it runs."""
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True
