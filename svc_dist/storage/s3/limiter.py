"""Requests in flight to one bucket: halved when the store asks to slow down, and more again as long as it does not.

Each process of a node has one limiter a bucket. A refusal of any of them slows all of them down: its time is in a file
that they share, by the node's monotonic clock. Together they settle at what the store takes.
"""

from __future__ import annotations

import logging
import mmap
import os
import random
import struct
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

MOST = 128  #: requests in flight of one process, and connections that a client keeps
_FIRST = 16  # before the store has answered: many nodes begin at the same time
_JITTER = 0.1  # seconds over which the first requests are spread
_SAY = 60.0  # seconds between two messages
_TIME = struct.Struct("d")
_log = logging.getLogger("svc_dist")


class Limiter:
    """The window of requests in flight to ``what``. Thread-safe.

    ``shared``: where the processes of this node keep the time of the last refusal.
    """

    def __init__(self, what: str, shared: memoryview | None = None) -> None:
        self._what = what
        self._shared = memoryview(bytearray(_TIME.size)) if shared is None else shared
        self._window = float(_FIRST)
        self._doubling = True  # until the first refusal: then one more request for each window that is answered
        self._running = self._begun = 0
        self._slowed = self._said = -_SAY
        self._condition = threading.Condition()
        self._jitter = random.Random()  # seeded from the system: nodes do not begin in step

    @property
    def window(self) -> int:
        """Requests that may be in flight now."""
        return max(1, int(self._window))

    @contextmanager
    def slot(self) -> Iterator[None]:
        """Wait until one more request may be in flight."""
        with self._condition:
            self._hear()
            self._condition.wait_for(lambda: self._running < self.window)
            self._running += 1
            self._begun += 1
            early = self._begun <= _FIRST
        try:
            if early:
                time.sleep(self._jitter.uniform(0, _JITTER))
            yield
        finally:
            with self._condition:
                self._running -= 1
                self._condition.notify()

    def answered(self) -> None:
        """The store has taken a request: allow more of them."""
        with self._condition:
            before = self.window
            self._window = min(MOST, self._window + (1 if self._doubling else 1 / self._window))
            if self.window > before:
                self._condition.notify()

    def refused(self, begun: float) -> None:
        """The store has asked to slow down, in answer to a request that began then by the monotonic clock.

        Requests that were in flight already when the window was halved do not halve it again.
        """
        with self._condition:
            self._hear()
            if begun < self._slowed:
                return
            before = self.window
            self._slow_down(time.monotonic())
            _TIME.pack_into(self._shared, 0, self._slowed)
            if self._slowed - self._said < _SAY or before == 1:
                return
            self._said = self._slowed
        _log.info(f"{self._what} asks to slow down: {self.window} requests in parallel instead of {before}")

    def _hear(self) -> None:
        """Slow down where another process was refused since this one did."""
        (refused,) = _TIME.unpack_from(self._shared)
        if max(self._slowed, 0.0) < refused <= time.monotonic() < refused + _SAY:
            self._slow_down(refused)

    def _slow_down(self, when: float) -> None:
        self._slowed, self._doubling = when, False
        self._window = max(1.0, self._window / 2)


def shared_time(what: str) -> memoryview | None:
    """Memory for a time that this user's processes on this node share, by what they ask; None where they cannot."""
    folder = Path(tempfile.gettempdir()) / f"svc-dist-limits-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
        if folder.is_symlink() or status.st_uid != os.getuid() or status.st_mode & 0o077:
            return None  # somebody else's
        path = folder / sha256(what.encode()).hexdigest()[:32]
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            os.ftruncate(descriptor, _TIME.size)
            return memoryview(mmap.mmap(descriptor, _TIME.size))
        finally:
            os.close(descriptor)
    except (OSError, ValueError):
        return None
