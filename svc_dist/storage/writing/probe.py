"""What a merge needs of a file system that it writes to, tried on a small file; mounts of buckets cannot do it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import uuid
from pathlib import Path

from svc_dist.errors import StorageError
from svc_dist.storage.base import storage_error
from svc_dist.storage.landing import write_all
from svc_dist.storage.local import NOT_SUPPORTED, sync_folder

_MOUNTS = Path("/proc/self/mountinfo")
#: Mounts of buckets, by a word in the type or the source of their mount, and the protocol that reaches the bucket.
_BUCKETS = {
    "mountpoint-s3": "s3", "s3fs": "s3", "goofys": "s3", "geesefs": "s3", "ossfs": "s3", "gcsfuse": "gs",
    "blobfuse": "az", "rclone": "s3", "hf-mount": "hf",
}  # fmt: skip
_DATA = b"0123456789abcdef"


def require_writes_anywhere(folder: Path) -> None:
    """Raise StorageError when a file in this folder cannot be made at its size, written at any position and renamed."""
    first, second = (folder / f".probe-{uuid.uuid4().hex}" for _ in range(2))
    doing = "make a file"
    try:
        descriptor = os.open(first, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        try:
            doing = "set a file's size"
            os.ftruncate(descriptor, 2 * len(_DATA))
            doing = "write at any position of a file"
            write_all(descriptor, _DATA, len(_DATA))
            write_all(descriptor, _DATA, 0)
            doing = "make a file durable"
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        doing = "write to an existing file"
        descriptor = os.open(first, os.O_WRONLY | os.O_CLOEXEC)
        try:
            write_all(descriptor, _DATA[:4], 8)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        doing = "rename a file over another"
        second.write_bytes(b"")
        first.replace(second)
        doing = "read back what was written"
        if second.read_bytes() != _DATA[:8] + _DATA[:4] + _DATA[12:] + _DATA:
            raise StorageError(f"{folder}: a file read back differs from what was written")
        sync_folder(folder)
    except OSError as error:
        bucket = _bucket(folder)
        if bucket is None and error.errno not in NOT_SUPPORTED:
            raise storage_error(error, f"cannot {doing} in {folder}") from None
        raise StorageError(f"{folder}: this file system cannot {doing} ({error.strerror})", _advice(bucket)) from None
    finally:
        for path in (first, second):
            with contextlib.suppress(OSError):
                path.unlink()


def has_kernel_locks(folder: Path) -> bool:
    """Whether files in this folder can be locked by the kernel (``flock``): not on a Lustre mounted without."""
    path = folder / f".probe-{uuid.uuid4().hex}"
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        finally:
            os.close(descriptor)
            path.unlink()
    except OSError as error:
        if error.errno in NOT_SUPPORTED:
            return False
        raise storage_error(error, f"cannot lock {path}") from None
    return True


def _bucket(folder: Path) -> tuple[str, str] | None:
    """The program that mounts a bucket at this folder, and the protocol that reaches the bucket; None for a disk."""
    try:
        lines = _MOUNTS.read_text().splitlines()
    except OSError:
        return None
    path = folder.resolve()
    best, kind = -1, ""
    for line in lines:
        fields, _, rest = line.partition(" - ")
        point = Path(fields.split()[4].encode().decode("unicode_escape"))
        if (point == path or point in path.parents) and len(point.parts) > best:
            best, kind = len(point.parts), " ".join(rest.split()[:2])
    return next(((program, protocol) for program, protocol in _BUCKETS.items() if program in kind), None)


def _advice(bucket: tuple[str, str] | None) -> str:
    if bucket is None:
        return "name an OUTPUT on a disk; if this is the mount of a bucket, name the bucket itself: s3://bucket/folder"
    program, protocol = bucket
    return f"it is the mount of a bucket by {program}: name the bucket itself as OUTPUT: {protocol}://bucket/folder"
