"""Trying again, with backoff and jitter until a deadline, what may pass; what will not pass fails at once."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from svc_dist.errors import StorageError, TransientStorageError

_log = logging.getLogger("svc_dist")
_FIRST, _LONGEST = 0.1, 15.0  # seconds before the second attempt, and at most between two
_QUIET = 4  # attempts that nobody needs to hear of

Result = TypeVar("Result")


class Retries:
    """Counts attempts that had to be repeated. Thread-safe."""

    def __init__(self) -> None:
        self.count = 0
        self._lock = threading.Lock()

    def add(self) -> None:
        with self._lock:
            self.count += 1


def translated(attempt: Callable[[], Result], ours: Callable[[Exception], Exception]) -> Callable[[], Result]:
    """``attempt`` with its errors made ours, which do not bear the client's: that may quote credentials."""

    def run() -> Result:
        try:
            return attempt()
        except Exception as error:
            failed = ours(error)
        raise failed  # out here, or the client's would be its context

    return run


def retrying(attempt: Callable[[], Result], deadline: float, retries: Retries | None = None) -> Result:
    """The result of ``attempt``, tried again while it raises TransientStorageError, for ``deadline`` seconds in all.

    Raises StorageError, which is not tried again, when time is up.
    """
    began = time.monotonic()
    attempts = 0
    jitter = random.Random()  # of its own: apart from waiting nothing depends on it
    while True:
        attempts += 1
        try:
            return attempt()
        except TransientStorageError as error:
            pause = min(_LONGEST, _FIRST * 2 ** min(attempts - 1, 16)) * jitter.uniform(0.5, 1.0)
            spent = time.monotonic() - began
            if spent + pause > deadline:
                raise StorageError(
                    f"{error.message} (given up after {attempts} attempt{'s' * (attempts > 1)} in {spent:.0f} s)",
                    f"{error.hint}; " * (error.hint is not None)
                    + "the storage did not answer as it should for that long; start the same command again to go on",
                ) from None
            if attempts == _QUIET:
                _log.warning(f"{error.message}: waiting for the storage, for up to {deadline - spent:.0f} s more")
            if retries is not None:
                retries.add()
            time.sleep(pause)
