"""Bringing a file's pages into the page cache, so that whoever maps them does not wait for the disk."""

from __future__ import annotations

import contextlib
import os
from types import TracebackType

Bytes = tuple[int, int]  # [start, end) of a file
_PIECE = 8 << 20  # bytes of one call
_BLOCK = 1 << 20  # bytes that are read where pages cannot be moved without a copy


class Ahead:
    """Bytes of local files that the disk was asked for when they were mapped: all are, before anyone waits for one."""

    def __init__(self) -> None:
        self._asked: list[tuple[int, list[Bytes]]] = []

    def add(self, descriptor: int, spans: list[Bytes]) -> None:
        """Remember bytes of an open file, which the caller may close."""
        self._asked.append((os.dup(descriptor), spans))

    def wait(self) -> None:
        """Wait until all of them are in the page cache, and forget them."""
        while self._asked:
            descriptor, spans = self._asked.pop(0)
            try:
                for start, end in spans:
                    make_resident(descriptor, start, end)
            finally:
                os.close(descriptor)

    def __enter__(self) -> Ahead:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for descriptor, _ in self._asked:
            os.close(descriptor)
        self._asked.clear()


def make_resident(descriptor: int, start: int, end: int) -> None:
    """Wait until bytes ``[start, end)`` of an open file are in the page cache.

    Nothing is copied where the system can send pages of files to the null device (Linux). A file that cannot be read
    fails again where it is used, with the error that belongs there.
    """
    with contextlib.suppress(OSError):
        position = start
        if hasattr(os, "sendfile"):
            position = _sent_to_nowhere(descriptor, start, end)
        block = bytearray(min(_BLOCK, end - position)) if position < end else bytearray()
        while position < end and (count := os.preadv(descriptor, [memoryview(block)[: end - position]], position)):
            position += count


def _sent_to_nowhere(descriptor: int, start: int, end: int) -> int:
    """The position up to which pages could be sent."""
    nowhere = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    position = start
    try:
        while position < end and (count := os.sendfile(nowhere, descriptor, position, min(_PIECE, end - position))):
            position += count
    except OSError:
        return position
    finally:
        os.close(nowhere)
    return position
