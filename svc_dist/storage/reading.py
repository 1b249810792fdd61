"""Ranges in: byte ranges of input files as read-only memory.

Local files are mapped, never read into a buffer. Remote ranges, and those of files that cannot be mapped, are fetched
in parallel into memory that stays, or where there is none, into one unlinked scratch file per unit, which is mapped in
the same way. The unit releases the pages that it no longer needs.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from svc_dist.storage.access import DEFAULT_ACCESS, Access, InMemory
from svc_dist.storage.base import FileIdentity, changed, os_errors
from svc_dist.storage.fetching import (
    SCRATCH_HINTS,
    Connections,
    Span,
    fetch_into,
    fetch_to_scratch,
    joined,
    request_size,
)
from svc_dist.storage.landing import Landing
from svc_dist.storage.local import NOT_SUPPORTED, local_identity
from svc_dist.storage.open import open_storage
from svc_dist.storage.paging.ahead import Ahead
from svc_dist.storage.retry import Retries

_JOIN_GAP = 1 << 16  # local ranges closer than this share a mapping


class ByteRange(msgspec.Struct, frozen=True, gc=False):
    """Bytes ``[start, end)`` of a file of a checkpoint."""

    file: str
    start: int
    end: int

    def holds(self, other: ByteRange) -> bool:
        return self.file == other.file and self.start <= other.start and other.end <= self.end


class MappedRanges:
    """Views of byte ranges, valid inside the ``with`` that made them."""

    def __init__(self) -> None:
        self._maps: list[mmap.mmap] = []
        self._offsets: dict[ByteRange, tuple[mmap.mmap, int]] = {}
        self._held: dict[ByteRange, memoryview] = {}

    def hold(self, views: Mapping[ByteRange, memoryview]) -> None:
        """Add ranges that are in memory already."""
        self._held |= views

    def add(self, descriptor: int, offset_of: Mapping[ByteRange, int]) -> None:
        """Map ranges, which start at these offsets of an open file; neighbours share a mapping."""
        groups: list[list[ByteRange]] = []
        end = 0
        for item in sorted((item for item in offset_of if item.end > item.start), key=lambda item: offset_of[item]):
            if not groups or offset_of[item] - end > _JOIN_GAP:
                groups.append([])
            groups[-1].append(item)
            end = offset_of[item] + item.end - item.start
        for group in groups:
            first = offset_of[group[0]] // mmap.ALLOCATIONGRANULARITY * mmap.ALLOCATIONGRANULARITY
            last = max(offset_of[item] + item.end - item.start for item in group)
            mapped = map_read_only(descriptor, last - first, first)
            if hasattr(mmap, "MADV_WILLNEED"):
                mapped.madvise(mmap.MADV_WILLNEED)
            self._maps.append(mapped)
            self._offsets |= {item: (mapped, offset_of[item] - first) for item in group}

    def view(self, item: ByteRange) -> memoryview:
        """The bytes of a range, or of some of one, read-only. Empty ranges are empty views."""
        if item.end == item.start:
            return memoryview(b"")
        if item in self._held:
            return self._held[item]
        if item not in self._offsets:
            whole = next(one for one in (*self._offsets, *self._held) if one.holds(item))
            return self.view(whole)[item.start - whole.start : item.end - whole.start]
        mapped, offset = self._offsets[item]
        return memoryview(mapped)[offset : offset + item.end - item.start]

    def release(self) -> None:
        """Give the pages back. The views stay readable (pages come back when touched)."""
        if hasattr(mmap, "MADV_DONTNEED"):
            for mapped in self._maps:
                mapped.madvise(mmap.MADV_DONTNEED)

    def clear(self) -> None:
        """Drop the mappings."""
        # Not closed by hand: a tensor made from a view would then point at nothing. Dropping them unmaps.
        self.release()
        self._maps.clear()
        self._offsets.clear()
        self._held.clear()


class Source:
    """The files of one checkpoint as planned. Reading one that has changed since raises ChangedInputError."""

    def __init__(self, location: str, files: Iterable[FileIdentity], access: Access = DEFAULT_ACCESS) -> None:
        self.location = location
        self.storage = open_storage(location, access)
        self.files = {file.name: access.known(location, file) for file in files}

    @contextmanager
    def map(self, ranges: Sequence[ByteRange]) -> Iterator[MappedRanges]:
        """Map ranges of this checkpoint alone; see ``map_ranges``."""
        with map_ranges([self], [ranges]) as reading:
            yield reading.mapped[0]


@dataclass
class Reading:
    """The mapped ranges of several checkpoints, and the retries of the requests for them."""

    mapped: list[MappedRanges]
    retries: Retries


@contextmanager
def map_ranges(
    sources: Sequence[Source],
    ranges: Sequence[Sequence[ByteRange]],
    scratch: str | None = None,
    parallel: int = DEFAULT_ACCESS.parallel,
    landing: Landing | None = None,
    ahead: bool = False,
    connections: Connections | None = None,
) -> Iterator[Reading]:
    """Map ranges of each of ``sources`` for the duration of a ``with``.

    ``parallel`` requests, or those of ``connections`` that others share, fetch the remote ranges into memory of
    ``landing``; without one, or where it has no room, into one file in the folder ``scratch``, which disappears with
    the last mapping. ``ahead``: the pages of local files are read now, not when they are touched. Raises
    ChangedInputError, StorageError, DamagedInputError.
    """
    reading = Reading([MappedRanges() for _ in sources], Retries())
    with ExitStack() as stack:
        for mapped in reading.mapped:
            stack.callback(mapped.clear)
        spans: list[Span] = []
        remote: list[tuple[MappedRanges, dict[ByteRange, int]]] = []
        size = 0
        local = stack.enter_context(Ahead()) if ahead else None
        for source, items, mapped in zip(sources, ranges, reading.mapped, strict=True):
            if isinstance(source.storage, InMemory):
                mapped.hold({item: source.storage.view(item.file, item.start, item.end) for item in items})
            elif source.storage.path is None or not _map_local(source, source.storage.path, items, mapped, local):
                size, offset_of = _plan_spans(source, items, size, spans)
                remote.append((mapped, offset_of))
        memory = stack.enter_context(landing.lease(size)) if spans and landing is not None else None
        if memory is not None:
            fetch_into(memory, spans, parallel, reading.retries, connections)
            for mapped, offset_of in remote:
                mapped.hold(
                    {item: memory[at : at + item.end - item.start].toreadonly() for item, at in offset_of.items()}
                )
        elif spans:
            with os_errors(f"cannot use scratch space in {scratch or tempfile.gettempdir()}", SCRATCH_HINTS):
                descriptor = fetch_to_scratch(spans, size, scratch, parallel, reading.retries, connections)
                try:
                    for mapped, offset_of in remote:
                        mapped.add(descriptor, offset_of)
                finally:
                    os.close(descriptor)
        if local is not None:
            local.wait()
        yield reading


def can_map(path: Path) -> bool:
    """Whether the file system maps a file: some network and FUSE mounts cannot, and their files are read instead."""
    with os_errors(f"cannot open {path}"):
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        map_read_only(descriptor, 1, 0)
    except OSError as error:
        return error.errno not in NOT_SUPPORTED
    except ValueError:  # an empty file
        return True
    finally:
        os.close(descriptor)
    return True


def map_read_only(descriptor: int, length: int, offset: int) -> mmap.mmap:
    """A read-only mapping, shared with the page cache; private where the file system has only that."""
    try:
        return mmap.mmap(descriptor, length, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ, offset=offset)
    except OSError as error:
        if error.errno not in NOT_SUPPORTED:
            raise
    return mmap.mmap(descriptor, length, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ, offset=offset)


def _map_local(
    source: Source, folder: Path, ranges: Iterable[ByteRange], mapped: MappedRanges, ahead: Ahead | None
) -> bool:
    """Map ranges of files in a folder of a mounted file system; False where it cannot map files."""
    for name, items in _by_file(ranges).items():
        path = folder / name
        with os_errors(f"cannot open {path}"):
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            with os_errors(f"cannot map {path}"):
                current = local_identity(name, os.fstat(descriptor))
                if current != source.files[name]:
                    raise changed(str(path), source.files[name], current)
                try:
                    mapped.add(descriptor, {item: item.start for item in items})
                except OSError as error:
                    if error.errno not in NOT_SUPPORTED:
                        raise
                    return False
                if ahead is not None:
                    ahead.add(descriptor, joined((item.start, item.end) for item in items))
        finally:
            os.close(descriptor)
    return True


def _plan_spans(
    source: Source, ranges: Sequence[ByteRange], size: int, spans: list[Span]
) -> tuple[int, dict[ByteRange, int]]:
    """Append the spans of ranges, close ones joined. Returns the new size, and the offset of each range."""
    offset_of: dict[ByteRange, int] = {}
    for name, items in _by_file(ranges).items():
        planned = source.files[name]
        source.storage.require_unchanged(planned)
        for start, end in joined((item.start, item.end) for item in items):
            spans.append(Span(source.storage, planned, start, end, size))
            for item in items:
                if start <= item.start and item.end <= end:
                    offset_of[item] = size + item.start - start
            size += end - start
    return size, offset_of


def request_count(models: Iterable[Iterable[ByteRange]], parallel: int = DEFAULT_ACCESS.parallel) -> int:
    """The number of requests that fetch the ranges of a unit, given for each remote checkpoint."""
    lengths = [
        end - start
        for ranges in models
        for items in _by_file(ranges).values()
        for start, end in joined((item.start, item.end) for item in items)
    ]
    size = request_size(sum(lengths), parallel)
    return sum(-(-length // size) for length in lengths)


def _by_file(ranges: Iterable[ByteRange]) -> dict[str, list[ByteRange]]:
    by_file: dict[str, list[ByteRange]] = {}
    for item in ranges:
        by_file.setdefault(item.file, []).append(item)
    return by_file
