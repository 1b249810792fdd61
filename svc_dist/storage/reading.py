"""Ranges in: byte ranges of input files as read-only memory.

Local files are mapped, never read into a buffer. Remote ranges are fetched in parallel into one unlinked scratch file a
unit, which is mapped just the same. Pages are given back when the unit is done with them.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from svc_dist.errors import SvcDistError
from svc_dist.storage.access import DEFAULT_ACCESS, Access
from svc_dist.storage.base import FileIdentity, Storage, changed, storage_error
from svc_dist.storage.local import local_identity
from svc_dist.storage.open import open_storage
from svc_dist.storage.retry import Retries

_JOIN_GAP = 1 << 16  # local ranges closer than this share a mapping
_REMOTE_GAP = 1 << 18  # remote ranges closer than this are one request: a round trip costs more than these bytes
_FETCH = 16 << 20  # bytes of one remote request


@dataclass(frozen=True)
class ByteRange:
    """Bytes ``[start, end)`` of a file of a checkpoint."""

    file: str
    start: int
    end: int


class MappedRanges:
    """Views of byte ranges, valid inside the ``with`` that made them."""

    def __init__(self) -> None:
        self._maps: list[mmap.mmap] = []
        self._offsets: dict[ByteRange, tuple[mmap.mmap, int]] = {}

    def add(self, wanted: Sequence[ByteRange], descriptor: int, offset_of: Mapping[ByteRange, int]) -> None:
        """Map ``wanted``, which lie at ``offset_of`` in the open file ``descriptor``; neighbours share a mapping."""
        ordered = sorted((item for item in wanted if item.end > item.start), key=lambda item: offset_of[item])
        group: list[ByteRange] = []
        for item in ordered:
            if group and offset_of[item] - (offset_of[group[-1]] + group[-1].end - group[-1].start) > _JOIN_GAP:
                self._map(group, descriptor, offset_of)
                group = []
            group.append(item)
        if group:
            self._map(group, descriptor, offset_of)

    def _map(self, group: list[ByteRange], descriptor: int, offset_of: Mapping[ByteRange, int]) -> None:
        first = offset_of[group[0]] // mmap.ALLOCATIONGRANULARITY * mmap.ALLOCATIONGRANULARITY
        last = max(offset_of[item] + item.end - item.start for item in group)
        mapped = mmap.mmap(descriptor, last - first, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ, offset=first)
        if hasattr(mmap, "MADV_WILLNEED"):
            mapped.madvise(mmap.MADV_WILLNEED)
        self._maps.append(mapped)
        for item in group:
            self._offsets[item] = (mapped, offset_of[item] - first)

    def view(self, wanted: ByteRange) -> memoryview:
        """The bytes of a range, read-only. Empty ranges are empty views."""
        if wanted.end == wanted.start:
            return memoryview(b"")
        mapped, offset = self._offsets[wanted]
        return memoryview(mapped)[offset : offset + wanted.end - wanted.start]

    def release(self) -> None:
        """Give the pages back. The views stay readable (pages come back when touched)."""
        if hasattr(mmap, "MADV_DONTNEED"):
            for mapped in self._maps:
                mapped.madvise(mmap.MADV_DONTNEED)

    def clear(self) -> None:
        # Not closed by hand: a tensor made from a view would then point at nothing. Dropping them unmaps.
        self.release()
        self._maps.clear()
        self._offsets.clear()


class Source:
    """The files of one checkpoint as planned: notices when one is no longer that."""

    def __init__(self, location: str, files: Iterable[FileIdentity], access: Access = DEFAULT_ACCESS) -> None:
        self.location = location
        self.files = {file.name: file for file in files}
        self.storage = open_storage(location, access)

    def require_planned(self, name: str) -> None:
        """Raise ChangedInputError when a file is not the planned one, unless the storage checks every read."""
        planned = self.files[name]
        if not self.storage.pinned_reads and (current := self.storage.stat(name)) != planned:
            raise changed(self.storage.url(name), planned, current)

    def map_local(self, folder: Path, wanted: Iterable[ByteRange], mapped: MappedRanges) -> None:
        """Map ranges of files in a folder of a mounted file system."""
        for name, items in _by_file(wanted).items():
            path = folder / name
            try:
                descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except OSError as error:
                raise storage_error(error, f"cannot open {path}") from None
            try:
                current = local_identity(name, os.fstat(descriptor))
                if current != self.files[name]:
                    raise changed(str(path), self.files[name], current)
                mapped.add(items, descriptor, {item: item.start for item in items})
            except OSError as error:
                raise storage_error(error, f"cannot map {path}") from None
            finally:
                os.close(descriptor)

    @contextmanager
    def map(self, wanted: Iterable[ByteRange]) -> Iterator[MappedRanges]:
        """Map ranges of this checkpoint alone; see ``map_ranges``."""
        with map_ranges([self], [list(wanted)]) as reading:
            yield reading.mapped[0]


@dataclass
class Reading:
    """The mapped ranges of several checkpoints, and how often a request for them had to be repeated."""

    mapped: list[MappedRanges]
    retries: Retries


@contextmanager
def map_ranges(
    sources: Sequence[Source],
    wanted: Sequence[Sequence[ByteRange]],
    scratch: str | None = None,
    parallel: int = DEFAULT_ACCESS.parallel,
) -> Iterator[Reading]:
    """Map ranges of each of ``sources`` for the duration of a ``with``.

    What is remote is fetched by ``parallel`` requests at once into one file in the folder ``scratch``, which goes with
    the last mapping. Raises ChangedInputError, StorageError, DamagedInputError.
    """
    reading = Reading([MappedRanges() for _ in sources], Retries())
    try:
        requests: list[_Request] = []
        offsets: list[dict[ByteRange, int]] = []
        size = 0
        for source, items, mapped in zip(sources, wanted, reading.mapped, strict=True):
            offset_of: dict[ByteRange, int] = {}
            if source.storage.path is not None:
                source.map_local(source.storage.path, items, mapped)
            else:
                size = _plan_requests(source, items, size, requests, offset_of)
            offsets.append(offset_of)
        if requests:
            descriptor = _fetch(requests, size, scratch, parallel, reading.retries)
            try:
                for mapped, offset_of in zip(reading.mapped, offsets, strict=True):
                    mapped.add(list(offset_of), descriptor, offset_of)
            except OSError as error:
                raise _scratch_error(error, scratch) from None
            finally:
                os.close(descriptor)
        yield reading
    finally:
        for mapped in reading.mapped:
            mapped.clear()


@dataclass(frozen=True)
class _Request:
    """Bytes ``[start, end)`` of a file, wanted at ``offset`` of the scratch file."""

    storage: Storage
    file: FileIdentity
    start: int
    end: int
    offset: int


def _plan_requests(
    source: Source, wanted: Sequence[ByteRange], size: int, requests: list[_Request], offset_of: dict[ByteRange, int]
) -> int:
    """Requests for ranges, close ones joined and long ones divided. Returns the scratch file's new size."""
    for name, items in _by_file(wanted).items():
        source.require_planned(name)
        for start, end in _spans(items):
            for first in range(start, end, _FETCH):
                last = min(first + _FETCH, end)
                requests.append(_Request(source.storage, source.files[name], first, last, size + first - start))
            for item in items:
                if start <= item.start and item.end <= end:
                    offset_of[item] = size + item.start - start
            size += end - start
    return size


def request_count(wanted: Iterable[ByteRange]) -> int:
    """How many requests ranges of one remote checkpoint are fetched by."""
    spans = [span for items in _by_file(wanted).values() for span in _spans(items)]
    return sum(-(-(end - start) // _FETCH) for start, end in spans)


def _spans(items: Iterable[ByteRange]) -> list[tuple[int, int]]:
    spans: list[tuple[int, int]] = []
    for item in sorted(items, key=lambda item: item.start):
        if item.end == item.start:
            continue
        if spans and item.start - spans[-1][1] <= _REMOTE_GAP:
            spans[-1] = (spans[-1][0], max(spans[-1][1], item.end))
        else:
            spans.append((item.start, item.end))
    return spans


def _fetch(requests: Sequence[_Request], size: int, scratch: str | None, parallel: int, retries: Retries) -> int:
    """Fetch into a scratch file. Returns its descriptor."""
    try:
        if scratch is not None:
            Path(scratch).mkdir(parents=True, exist_ok=True)
        descriptor, path = tempfile.mkstemp(prefix="svc-dist-", dir=scratch)
    except OSError as error:
        raise _scratch_error(error, scratch) from None
    pool = ThreadPoolExecutor(min(parallel, len(requests)), thread_name_prefix="fetch")
    try:
        Path(path).unlink()  # the bytes go when the last mapping does, even after kill -9
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(descriptor, 0, size)  # a full disk shows here, not as a bus error later
        else:
            os.ftruncate(descriptor, size)

        def fetch(request: _Request) -> None:
            request.storage.fetch(request.file, request.start, request.end, descriptor, request.offset, retries)

        for _ in pool.map(fetch, requests):
            pass
    except OSError as error:
        pool.shutdown(cancel_futures=True)
        os.close(descriptor)
        raise _scratch_error(error, scratch) from None
    except BaseException:
        pool.shutdown(cancel_futures=True)
        os.close(descriptor)
        raise
    pool.shutdown()
    return descriptor


def _scratch_error(error: OSError, scratch: str | None) -> SvcDistError:
    return storage_error(error, f"cannot use scratch space in {scratch or tempfile.gettempdir()}")


def _by_file(wanted: Iterable[ByteRange]) -> dict[str, list[ByteRange]]:
    by_file: dict[str, list[ByteRange]] = {}
    for item in wanted:
        by_file.setdefault(item.file, []).append(item)
    return by_file
