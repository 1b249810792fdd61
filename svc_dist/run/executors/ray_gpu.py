"""The GPU of a worker process: CUDA stays with the one that it began on, whichever is booked for its later tasks."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Collection

LINGER = 0.5  # seconds for the answer of a process's last task to leave it
GONE = 5.0  # seconds after that answer by which Ray has noticed that the process ended, and gives it no more tasks


class OwnDevice:
    """Holds a process to the device that its first task with one booked.

    Ray books a device for each task, and takes any worker that is idle. A process that used every device in turn would
    keep a context of some 400 MB on each of them. ``end``: ends the process.
    """

    def __init__(self, end: Callable[[], object] = lambda: os._exit(0)) -> None:
        self._end = end
        self._device: frozenset[str] | None = None
        self._ending: threading.Timer | None = None

    def allows(self, booked: Collection[str]) -> bool:
        """Whether a task with these devices booked, or with none, may run in this process."""
        return not booked or self._device in (None, frozenset(booked))

    def claim(self, booked: Collection[str]) -> bool:
        """Take the devices booked for a task, if it may run here.

        If not, end the process within a second, so that another one takes its place; unless a task comes first that may
        run here.
        """
        if not booked:
            return True
        if self._ending is not None:
            self._ending.cancel()
            self._ending = None
        if self.allows(booked):
            self._device = frozenset(booked)
            return True
        self._ending = threading.Timer(LINGER, self._end)
        self._ending.daemon = True
        self._ending.start()
        return False
