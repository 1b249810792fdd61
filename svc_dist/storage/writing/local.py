"""Ranges out: writing a range is its commit, finishing a shard is a rename. Nothing is ever assembled.

A shard grows in ``<output>/.svc_dist/partial/``, allocated at its full size, and is renamed into the output when all
of its ranges are there.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import stat
import sys
from collections.abc import Sequence
from pathlib import Path

import xxhash

from svc_dist.errors import StorageError
from svc_dist.sizes import format_size
from svc_dist.storage.base import os_errors
from svc_dist.storage.landing import write_all
from svc_dist.storage.local import NOT_SUPPORTED, disk_usage, open_regular, remove_tree, sync_folder
from svc_dist.storage.retry import Retries
from svc_dist.storage.writing.base import LostRangesError, RangeWriter, ShardFile, ShardState

_BLOCK = 1 << 22
_RWF_DONTCACHE = 0x80  # <linux/fs.h>, since 6.14
_dontcache = sys.platform == "linux" and hasattr(os, "pwritev")  # until a write says that it cannot


class LocalSink:
    """Writes into a folder of a mounted file system."""

    memory = 0
    self_proving = False

    def __init__(self, root: Path, partial: Path) -> None:
        self.root = root
        self._partial = partial

    def prepare(self, shards: Sequence[ShardFile]) -> None:
        new = [shard for shard in shards if self.state(shard) is None]
        self._require_space(sum(shard.size for shard in new))
        for shard in new:
            self._make_room(shard)

    def _require_space(self, needed: int) -> None:
        """Raise StorageError where the disk is too small, before it is filled; some file systems do not know."""
        usage = disk_usage(self.root)
        if usage.total and usage.free < needed:
            raise StorageError(
                f"cannot make room for {format_size(needed)} in {self.root}: No space left on device: "
                f"{format_size(usage.free)} are free",
                "free space there, then run the same command again to resume, or name an OUTPUT on another disk",
            )

    def _make_room(self, shard: ShardFile) -> None:
        path = self._partial / shard.file
        with os_errors(f"cannot make room for {shard.size:,} bytes in {path}"):
            self._make_way(path)
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
            try:
                _allocate(descriptor, shard.size)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            sync_folder(path.parent)

    def _make_way(self, path: Path) -> None:
        """Remove from the run folder what no run made: a link would be written through, into somebody's file."""
        for folder in self._folders(path):
            if folder.is_symlink():
                folder.unlink()
        if _own_size(path) is None:
            remove_tree(path)

    def _folders(self, path: Path) -> list[Path]:
        """The folders of a partial file, the outermost first."""
        inside = path.parent.relative_to(self._partial).parts
        return [self._partial.joinpath(*inside[:depth]) for depth in range(len(inside) + 1)]

    def state(self, shard: ShardFile) -> ShardState | None:
        if _size(self.root / shard.file) == shard.size:
            return ShardState(finished=True)
        linked = any(folder.is_symlink() for folder in self._folders(self._partial / shard.file))
        return None if linked or _own_size(self._partial / shard.file) != shard.size else ShardState(finished=False)

    def write_range(self, shard: ShardFile, start: int, end: int, first_part: int, parts: Sequence[int]) -> RangeWriter:
        return _LocalRange(self._partial / shard.file, start, end)

    def digest(self, shard: ShardFile, start: int, end: int, tokens: Sequence[str]) -> str:
        partial = self._partial / shard.file
        path = self.root / shard.file if _own_size(partial) is None else partial
        digest, buffer = xxhash.xxh3_128(), memoryview(bytearray(_BLOCK))
        with os_errors(f"cannot read {path}"), contextlib.suppress(FileNotFoundError), open_regular(path) as file:
            file.seek(start)
            while start < end and (count := file.readinto(buffer[: min(_BLOCK, end - start)])):  # type: ignore[attr-defined]
                digest.update(buffer[:count])
                start += count
            return digest.hexdigest() if start == end else ""
        return ""

    def finish(self, shard: ShardFile, tokens: Sequence[str]) -> None:
        source, target = self._partial / shard.file, self.root / shard.file
        with os_errors(f"cannot finish {target}"):
            if _own_size(source) is not None:
                target.parent.mkdir(parents=True, exist_ok=True)
                source.replace(target)
            elif not target.exists():
                raise LostRangesError(f"{target} is gone: another program removed it")
            for folder in (target.parent, *target.parent.parents):  # up to the output: some may be new
                sync_folder(folder)
                if folder == self.root:
                    break


class _LocalRange:
    def __init__(self, path: Path, start: int, end: int) -> None:
        self._path, self._start, self._position, self._end = path, start, start, end
        self._descriptor: int | None = None
        self.retries = Retries()

    def __enter__(self) -> _LocalRange:
        with os_errors(f"cannot open {self._path}"):
            self._descriptor = os.open(self._path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        return self

    def write(self, data: memoryview) -> None:
        assert self._descriptor is not None
        if self._position + data.nbytes > self._end:
            raise ValueError(f"{self._path}: {data.nbytes} bytes at {self._position} pass the range's end {self._end}")
        with os_errors(f"cannot write to {self._path}"):
            _write_uncached(self._descriptor, data, self._position)
        self._position += data.nbytes

    def commit(self) -> tuple[str, ...]:
        assert self._descriptor is not None
        if self._position != self._end:
            raise ValueError(f"{self._path}: the range ends at {self._end}, only {self._position} is written")
        with os_errors(f"cannot make {self._path} durable"):
            os.fdatasync(self._descriptor) if hasattr(os, "fdatasync") else os.fsync(self._descriptor)
        if hasattr(os, "posix_fadvise"):
            with contextlib.suppress(OSError):  # advice: not every file system takes it
                length = self._end - self._start
                os.posix_fadvise(self._descriptor, self._start, length, os.POSIX_FADV_DONTNEED)
        return ()

    def __exit__(self, *exception: object) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _write_uncached(descriptor: int, data: memoryview, offset: int) -> None:
    """``pwrite`` everything; where the kernel supports it, pages leave the page cache once they are on disk.

    Nobody reads a model soon after it is written: it must not evict the inputs, and the next range reuses the pages
    that are released immediately.
    """
    global _dontcache
    while data and _dontcache:
        try:
            written = os.pwritev(descriptor, [data], offset, _RWF_DONTCACHE)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
                raise
            _dontcache = False
            break
        data, offset = data[written:], offset + written
    write_all(descriptor, data, offset)


def _size(path: Path) -> int | None:
    """The size of a file; None where there is none."""
    with os_errors(f"cannot look at {path}"), contextlib.suppress(FileNotFoundError):
        status = path.stat()
        return status.st_size if stat.S_ISREG(status.st_mode) else None
    return None


def _own_size(path: Path) -> int | None:
    """The size of a file that has this name only: a link of either kind may lead to anyone's data."""
    with os_errors(f"cannot look at {path}"), contextlib.suppress(FileNotFoundError):
        status = path.lstat()
        return status.st_size if stat.S_ISREG(status.st_mode) and status.st_nlink <= 1 else None
    return None


def _allocate(descriptor: int, size: int) -> None:
    """Reserve the blocks where the file system can, so that a full disk shows now and not hours later.

    Not ``posix_fallocate``: where the file system cannot, it writes zeros into every block.
    """
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
        if libc.fallocate(descriptor, 0, 0, size) == 0:
            os.ftruncate(descriptor, size)
            return
        number = ctypes.get_errno()
        if number not in NOT_SUPPORTED:
            raise OSError(number, os.strerror(number))
    os.ftruncate(descriptor, size)
