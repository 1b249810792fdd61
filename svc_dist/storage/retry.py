"""Retries of transient failures, with backoff and jitter, until a deadline. Permanent failures are not retried."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

from svc_dist.errors import StorageError, TransientStorageError

_log = logging.getLogger("svc_dist")
_FIRST, _LONGEST = 0.1, 15.0  # seconds before the second attempt, and at most between two
_QUIET = 4  # attempts before a warning

Result = TypeVar("Result")


class Retries:
    """Counts retries. Thread-safe."""

    def __init__(self) -> None:
        self.count = 0
        self._lock = threading.Lock()

    def add(self) -> None:
        with self._lock:
            self.count += 1


def retrying(
    attempt: Callable[[], Result],
    deadline: float | Callable[[], float],
    retries: Retries | None = None,
    admit: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> Result:
    """The result of ``attempt``, retried while it raises TransientStorageError, for ``deadline`` seconds in all.

    ``deadline`` may be a question, asked after each attempt. ``admit``: what each attempt is made in; the time until it
    lets the attempt begin does not count. Raises StorageError, which is not retried, at the deadline.
    """
    began = time.monotonic()
    attempts = 0
    jitter = random.Random()  # seeded from the system: nodes do not retry in step
    while True:
        attempts += 1
        try:
            waiting = time.monotonic()
            with admit():
                began += time.monotonic() - waiting
                return attempt()
        except TransientStorageError as error:
            pause = min(_LONGEST, _FIRST * 2 ** min(attempts - 1, 16)) * jitter.uniform(0.5, 1.0)
            spent = time.monotonic() - began
            limit = deadline() if callable(deadline) else deadline
            if spent + pause > limit:
                raise StorageError(
                    f"{error.message} (failed after {attempts} attempt{'s' * (attempts > 1)} in {spent:.0f} s)",
                    f"{error.hint or 'the storage failed for that long'}; then run the same command again",
                ) from None
            if attempts == _QUIET:
                _log.warning(f"{error.message}: waiting for the storage, for up to {limit - spent:.0f} s more")
            if retries is not None:
                retries.add()
            time.sleep(pause)
