"""The GPU of a worker process: CUDA stays on the first one, whichever is booked for later tasks."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Collection

LINGER = 0.5  # seconds in which a process sends the answer of its last task
GONE = 5.0  # seconds after that answer by which Ray has noticed that the process ended, and sends it no more tasks


class OwnDevice:
    """Restricts a process to the device that its first GPU task booked.

    Ray books a device for each task and chooses any idle worker. A process that used every device in turn would hold a
    context of some 400 MB on each of them. ``end``: ends the process.
    """

    def __init__(self, end: Callable[[], object] = lambda: os._exit(0)) -> None:
        self._end = end
        self._device: frozenset[str] | None = None
        self._ending: threading.Timer | None = None

    def claim(self, booked: Collection[str]) -> bool:
        """Claim the devices booked for a task. False if the process uses another one.

        Then the process ends within a second, so that a new one replaces it, unless a task for its device comes first.
        """
        if not booked:
            return True
        if self._ending is not None:
            self._ending.cancel()
            self._ending = None
        if self._device in (None, frozenset(booked)):
            self._device = frozenset(booked)
            return True
        self._ending = threading.Timer(LINGER, self._end)
        self._ending.daemon = True
        self._ending.start()
        return False
