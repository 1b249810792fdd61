"""Waiting for a process that another one started to end."""

from __future__ import annotations

import time
from pathlib import Path


def wait_until_ended(pid: int, seconds: float = 5.0) -> None:
    """Raises AssertionError where it still runs after that time. One that nobody waits for has ended, too."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return
        except (FileNotFoundError, ProcessLookupError):
            return
        time.sleep(0.05)
    raise AssertionError(f"process {pid} is alive")
