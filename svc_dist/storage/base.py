"""The files of one local folder: what is there, who it is, and ranges of its bytes. See objects.py for the others."""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from svc_dist.errors import DamagedInputError, RecipeError, StorageError, SvcDistError, TransientStorageError
from svc_dist.storage.secrets import redact

_TRANSIENT = {
    errno.EAGAIN,
    errno.EINTR,
    errno.ETIMEDOUT,
    errno.ECONNRESET,
    errno.ECONNABORTED,
    errno.EPIPE,
    errno.ESTALE,
}
_HINTS = {
    errno.ENOSPC: "free space there and start the same command again: it goes on where it stopped",
    errno.EDQUOT: "raise the quota and start the same command again: it goes on where it stopped",
    errno.EACCES: "check the permissions of the user that runs this",
    errno.EROFS: "the file system is mounted read-only",
    errno.ENOENT: "check the path",
}


@dataclass(frozen=True)
class FileIdentity:
    """What tells whether a file is still the one that was planned with: its size and ETag, or size and mtime."""

    name: str
    size: int
    version: str


def storage_error(error: Exception, what: str) -> SvcDistError:
    """Our error for an OSError or an fsspec client's error while doing ``what``, transient or for good."""
    if isinstance(error, SvcDistError):
        return error
    number = getattr(error, "errno", None)
    reason = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}".rstrip(": ")
    reason = redact(reason)  # servers redirect to signed URLs, and clients quote them
    if number in _TRANSIENT or isinstance(error, TimeoutError | ConnectionError):
        return TransientStorageError(f"{what}: {reason}")
    return StorageError(f"{what}: {reason}", _HINTS.get(number) if number is not None else None)


class Folder(Protocol):
    """Read access to the files directly in a folder or prefix."""

    location: str

    def names(self) -> list[str]:
        """Names of the files directly in it, sorted."""

    def identity(self, name: str) -> FileIdentity | None:
        """Who a file is; None when it does not exist."""

    def read(self, name: str, start: int = 0, end: int | None = None, of: FileIdentity | None = None) -> bytes:
        """Bytes ``[start, end)`` of a file. Raises StorageError, DamagedInputError when fewer are there.

        ``of``: who it is to be; a storage that can tell raises ChangedInputError when it is another.
        """


class LocalFolder:
    """A folder on a mounted file system."""

    def __init__(self, location: str) -> None:
        self.location = location

    def path(self, name: str) -> Path:
        return Path(self.location) / name

    def names(self) -> list[str]:
        try:
            return sorted(entry.name for entry in os.scandir(self.location) if entry.is_file())
        except OSError as error:
            raise storage_error(error, f"cannot list {self.location}") from None

    def identity(self, name: str) -> FileIdentity | None:
        try:
            status = self.path(name).stat()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise storage_error(error, f"cannot look at {self.path(name)}") from None
        if not stat.S_ISREG(status.st_mode):  # reading a pipe would wait for ever
            raise DamagedInputError(f"{self.path(name)} is not a regular file")
        return local_identity(name, status)

    def read(self, name: str, start: int = 0, end: int | None = None, of: FileIdentity | None = None) -> bytes:
        try:
            with self.path(name).open("rb") as file:
                file.seek(start)
                data = file.read() if end is None else file.read(end - start)
        except OSError as error:
            raise storage_error(error, f"cannot read {self.path(name)}") from None
        return complete(data, f"{self.path(name)}", start, end)


def is_local(location: str) -> bool:
    """Whether a location is on a mounted file system."""
    return "://" not in location or location.startswith(("file://", "local://"))


def local_path(location: str) -> str:
    """The path of a local location (``file://`` taken off)."""
    return location.split("://", 1)[1] if "://" in location else location


def trimmed(url: str) -> str:
    """A URL without slashes at its end; what is only a scheme stays a URL."""
    scheme, mark, rest = url.partition("://")
    return scheme + mark + rest.rstrip("/")


def split_location(location: str) -> tuple[str, str | None]:
    """``model+adapter`` as its two locations; ``(location, None)`` without a plus, or where it is a folder's name.

    Raises RecipeError where there is more than one plus.
    """
    if "+" not in location or (is_local(location) and Path(local_path(location)).is_dir()):
        return location, None
    model, adapter = location.split("+", 1)
    if not model or not adapter or "+" in adapter:
        raise RecipeError(
            f"{location}: model+adapter has one +, with a location before it and one after it",
            "a folder whose name has a + is reached through a symbolic link without one",
        )
    return model, adapter


def local_identity(name: str, status: os.stat_result) -> FileIdentity:
    return FileIdentity(name, status.st_size, f"mtime:{status.st_mtime_ns}")


def write_all(descriptor: int, data: bytes | memoryview, offset: int) -> None:
    """``pwrite`` until everything is written."""
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


def complete(data: bytes, what: str, start: int, end: int | None) -> bytes:
    """``data`` when it is all of what was asked for. Raises DamagedInputError."""
    if end is not None and len(data) != end - start:
        raise DamagedInputError(
            f"{what}: asked for bytes {start:,} to {end:,}, got {len(data):,}; the file is truncated"
        )
    return data
