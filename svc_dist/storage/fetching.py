"""Remote ranges in parallel: requests for bytes of files, and the memory or scratch file where they land."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

from svc_dist.storage.base import FileIdentity, Storage
from svc_dist.storage.landing import FileTarget, MemoryTarget, Target
from svc_dist.storage.local import NOT_SUPPORTED
from svc_dist.storage.retry import Retries

GAP = 1 << 18  # ranges closer than this are one request: a round trip costs more than these bytes
#: Bytes of one request: enough of them to use every connection, and no more requests than that takes.
SMALLEST, LARGEST = 16 << 20, 64 << 20
#: What to do where scratch space cannot be used, by the error's number.
SCRATCH_HINTS = {errno.ENODEV: "its file system cannot map files: name a folder on a local disk with --scratch"}


@dataclass(frozen=True)
class Span:
    """Bytes ``[start, end)`` of a file that land at ``offset``."""

    storage: Storage
    file: FileIdentity
    start: int
    end: int
    offset: int


class Connections:
    """The connections of one process, ``count`` at a time. Of units that fetch together, the first has all it can use.

    Connections of its own for each unit would let all of them end late: half of the inputs of two large units are of
    no use to a device that waits for one of them.
    """

    def __init__(self, count: int) -> None:
        self._threads = ThreadPoolExecutor(count, thread_name_prefix="fetch")

    def fetch(self, requests: Sequence[tuple[Span, Target]], retries: Retries) -> None:
        """Fetch spans, after those that others asked for before. Nothing lands after this returns or raises."""
        pending = [self._threads.submit(_fetch_one, span, target, retries) for span, target in requests]
        try:
            for one in pending:
                one.result()
        finally:
            wait([one for one in pending if not one.cancel()])


def joined(pairs: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """The spans ``[start, end)`` that hold these, close ones joined."""
    spans: list[tuple[int, int]] = []
    for start, end in sorted(pairs):
        if end == start:
            continue
        if spans and start - spans[-1][1] <= GAP:
            spans[-1] = (spans[-1][0], max(spans[-1][1], end))
        else:
            spans.append((start, end))
    return spans


def request_size(total: int, parallel: int) -> int:
    """Bytes of one request where ``total`` bytes are fetched by so many requests in parallel."""
    return min(LARGEST, max(SMALLEST, -(-total // parallel)))


def fetch_into(
    memory: memoryview, spans: Sequence[Span], parallel: int, retries: Retries, connections: Connections | None = None
) -> None:
    """Fetch spans into memory, by so many requests in parallel, or over ``connections`` that others share."""

    def target(span: Span) -> Target:
        return MemoryTarget(memory[span.offset : span.offset + span.end - span.start])

    _fetch([(span, target(span)) for span in _divided(spans, parallel)], parallel, retries, connections)


def fetch_to_scratch(
    spans: Sequence[Span],
    size: int,
    scratch: str | None,
    parallel: int,
    retries: Retries,
    connections: Connections | None = None,
) -> int:
    """Fetch spans into an unlinked file of ``size`` bytes in the folder ``scratch``. Returns its descriptor."""
    if scratch is not None:
        Path(scratch).mkdir(parents=True, exist_ok=True)
    descriptor, path = tempfile.mkstemp(prefix="svc-dist-", dir=scratch)
    try:
        Path(path).unlink()  # the bytes go when the last mapping does, even after kill -9
        _reserve(descriptor, size)
        requests = _divided(spans, parallel)
        targets = [FileTarget(descriptor, span.offset, span.end - span.start) for span in requests]
        _fetch(list(zip(requests, targets, strict=True)), parallel, retries, connections)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _divided(spans: Sequence[Span], parallel: int) -> list[Span]:
    """The requests for spans."""
    size = request_size(sum(span.end - span.start for span in spans), parallel)
    return [
        Span(span.storage, span.file, first, min(first + size, span.end), span.offset + first - span.start)
        for span in spans
        for first in range(span.start, span.end, size)
    ]


def _fetch(
    requests: Sequence[tuple[Span, Target]], parallel: int, retries: Retries, connections: Connections | None
) -> None:
    (connections or Connections(min(parallel, len(requests)))).fetch(requests, retries)


def _fetch_one(span: Span, target: Target, retries: Retries) -> None:
    span.storage.fetch(span.file, span.start, span.end, target, retries)


def _reserve(descriptor: int, size: int) -> None:
    """Give a file its size and, where the file system can, its blocks: a full disk shows here, not as a bus error."""
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(descriptor, 0, size)
            return
        except OSError as error:
            if error.errno not in NOT_SUPPORTED:
                raise
    os.ftruncate(descriptor, size)
