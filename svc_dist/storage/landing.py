"""Where fetched bytes land: memory of this process that is used again and again, or a scratch file.

Fresh memory and fresh pages of a file cost several times the processor time of receiving the bytes themselves: each
page is cleared and mapped when it is first touched. Memory that stays is touched once.
"""

from __future__ import annotations

import mmap
import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_BLOCK = 1 << 20  # bytes that a thread receives before it writes them to a file
_PAGE = mmap.PAGESIZE
_RESERVE = 4  # memory grows only by this share of what is available
_blocks = threading.local()


class Target(ABC):
    """The place of ``size`` bytes that come in order. ``done``: those that have come; a retry asks for the rest."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.done = 0

    @property
    def left(self) -> int:
        """Bytes that are missing."""
        return self.size - self.done

    @abstractmethod
    def room(self) -> memoryview:
        """Memory for the next bytes; empty when all have come. ``advance`` takes over what was put there."""

    @abstractmethod
    def advance(self, count: int) -> None:
        """Take over the first ``count`` bytes of ``room``."""

    def write(self, data: bytes | memoryview) -> None:
        """Take over bytes that are somewhere else."""
        view = memoryview(data)
        while view:
            room = self.room()
            count = min(len(room), len(view))
            room[:count] = view[:count]
            self.advance(count)
            view = view[count:]


class MemoryTarget(Target):
    """A piece of memory."""

    def __init__(self, memory: memoryview) -> None:
        super().__init__(len(memory))
        self._memory = memory

    def room(self) -> memoryview:
        return self._memory[self.done :]

    def advance(self, count: int) -> None:
        self.done += count


class FileTarget(Target):
    """Bytes from ``offset`` on of an open file."""

    def __init__(self, descriptor: int, offset: int, size: int) -> None:
        super().__init__(size)
        self._descriptor, self._offset = descriptor, offset

    def room(self) -> memoryview:
        if not hasattr(_blocks, "block"):
            _blocks.block = memoryview(bytearray(_BLOCK))
        block: memoryview = _blocks.block
        return block[: self.left]

    def advance(self, count: int) -> None:
        write_all(self._descriptor, self.room()[:count], self._offset + self.done)
        self.done += count

    def write(self, data: bytes | memoryview) -> None:
        write_all(self._descriptor, data, self._offset + self.done)
        self.done += len(data)


class Landing:
    """Memory for the remote ranges of the units in flight, ``limit`` bytes at most; it stays until this object goes.

    ``available``: bytes that the machine has left, asked before memory is touched for the first time.
    """

    def __init__(self, limit: int, available: Callable[[], int]) -> None:
        self._limit = limit // _PAGE * _PAGE
        self._available = available
        self._memory: mmap.mmap | None = None
        self._touched = 0  # pages up to here have been used
        self._leases: list[tuple[int, int]] = []  # by start
        self._lock = threading.Lock()

    @contextmanager
    def lease(self, size: int) -> Iterator[memoryview | None]:
        """``size`` bytes for the duration of a ``with``; None where there is no room now."""
        lease = self._take(-(-size // _PAGE) * _PAGE)
        try:
            yield None if lease is None or self._memory is None else memoryview(self._memory)[lease[0] :][:size]
        finally:
            if lease is not None:
                with self._lock:
                    self._leases.remove(lease)

    def _take(self, size: int) -> tuple[int, int] | None:
        with self._lock:
            start = self._gap(size)
            if start + size > self._limit or not self._grow(start + size):
                return None
            lease = (start, start + size)
            self._leases = sorted([*self._leases, lease])
            return lease

    def _gap(self, size: int) -> int:
        """The lowest place of so many bytes: low pages have been touched."""
        start = 0
        for first, last in self._leases:
            if first - start >= size:
                break
            start = last
        return start

    def _grow(self, end: int) -> bool:
        if end > self._touched:
            if end - self._touched > self._available() // _RESERVE:
                return False
            try:
                # Shared and without a name: like the page cache, it is no memory of the unit's own.
                self._memory = self._memory or mmap.mmap(-1, self._limit)
            except OSError:  # a machine that promises no more memory than it has
                self._limit = 0
                return False
            self._touched = end
        return True


def write_all(descriptor: int, data: bytes | memoryview, offset: int) -> None:
    """``pwrite`` until everything is written."""
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written
