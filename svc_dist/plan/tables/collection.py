"""Pauses of Python's garbage collector, which looks at every object again whenever there are a quarter more of them."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_lock = threading.Lock()
_pauses: list[bool] = []  # for each pause in progress: whether the collector ran before it


@contextmanager
def collection_paused() -> Iterator[None]:
    """Make objects by the million, none of them in a cycle: collections in between would take most of the time."""
    with _lock:
        _pauses.append(gc.isenabled() if not _pauses else _pauses[0])
        gc.disable()
    try:
        yield
    finally:
        with _lock:
            if _pauses.pop() and not _pauses:
                gc.enable()
