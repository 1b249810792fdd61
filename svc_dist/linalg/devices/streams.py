"""Streams of a GPU: units that share a device copy and compute side by side, each in a stream of its own."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_lock = threading.Lock()
_idle: list[torch.cuda.Stream] = []  # that units have used: a stream's cached memory serves only that stream


def has_streams(device: str | torch.device) -> bool:
    """Whether the device has streams, and this build of torch knows them."""
    return f"{device}".startswith("cuda") and (torch.version.cuda is not None or torch.version.hip is not None)


@contextmanager
def own_stream(device: str) -> Iterator[None]:
    """Have what this thread launches on a device run in a stream that no other thread uses meanwhile."""
    if not has_streams(device):
        yield
        return
    with _lock:
        stream = _idle.pop() if _idle else torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    try:
        with torch.cuda.stream(stream):
            yield
    finally:
        with _lock:
            _idle.append(stream)


class Pace(threading.local):
    """Keeps a thread's copies from pinned memory at most so many bytes ahead of the device."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._copies: deque[tuple[torch.cuda.Event, int]] = deque()

    def began(self, device: torch.device, nbytes: int) -> None:
        """Note a copy that was just enqueued; waits for the earliest ones where too much is under way."""
        if not has_streams(device):
            return
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record()
        self._copies.append((event, nbytes))
        while len(self._copies) > 1 and sum(size for _, size in self._copies) > self.limit:
            self._copies.popleft()[0].synchronize()
