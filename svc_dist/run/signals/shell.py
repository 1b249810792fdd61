"""A line of the user's that runs in a shell: it ends in time, with whatever it started."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping
from typing import IO

_PATIENCE = 10.0  # seconds from SIGTERM to SIGKILL


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
    """End the session of a line."""
    for number, patience in ((signal.SIGTERM, _PATIENCE), (signal.SIGKILL, None)):
        with contextlib.suppress(ProcessLookupError, PermissionError):  # it has ended
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(patience)
            if not _is_alive(process.pid):
                return


def _is_alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return True
