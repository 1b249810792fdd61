"""``svc-dist status --watch``: the state of a merge again and again, until it runs no longer."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING

from svc_dist.cli.streams.terminal import is_cut_off, say, say_json, take_back
from svc_dist.errors import ExitCode

if TYPE_CHECKING:
    from svc_dist.checks.status import Status


def show(status: Status, as_json: bool) -> None:
    """Print a status."""
    say_json(json.dumps(asdict(status))) if as_json else say(status.text())


def watch(read: Callable[[], Status], as_json: bool, every: float) -> int:
    """Print the status every so many seconds while the merge runs. Returns the exit code that its state stands for.

    On a terminal the text is replaced by the next one; elsewhere, and as JSON, one follows the other.
    """
    from svc_dist.checks.status import State

    replaced = not as_json and sys.stdout.isatty()
    while True:
        status = read()
        show(status, as_json)
        if is_cut_off():
            return ExitCode.DONE
        if status.state is not State.RUNNING:
            break
        time.sleep(every)
        if replaced:
            take_back(status.text().count("\n") + 1)
    if status.state is State.COMPLETE:
        return ExitCode.DONE
    return ExitCode.TRY_AGAIN if status.state is State.STOPPED else status.exit_code or ExitCode.UNITS_FAILED
