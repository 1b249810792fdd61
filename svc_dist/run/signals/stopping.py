"""SIGTERM and SIGINT as requests to stop, which running work takes when it can."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

#: Events of parts that want to know that work within them was asked to stop.
_records: list[threading.Event] = []


@contextmanager
def recorded_stop() -> Iterator[threading.Event]:
    """An event that is set once a part within it was asked to stop, also where that part had already ended its work.

    Between parts, SIGTERM and SIGINT act as ever.
    """
    asked = threading.Event()
    _records.append(asked)
    try:
        yield asked
    finally:
        _records.remove(asked)


@contextmanager
def signals(stop: threading.Event) -> Iterator[None]:
    """SIGTERM and SIGINT set ``stop``; a second SIGINT interrupts immediately."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, frame: FrameType | None) -> None:
        earlier = before[signal.SIGINT]
        if stop.is_set() and number == signal.SIGINT and callable(earlier):
            earlier(number, frame)
        for asked in (stop, *_records):
            asked.set()

    before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
