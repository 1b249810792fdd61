"""Files behind a URL, whole and in ranges, read and written: any storage that fsspec knows. See s3.py for S3."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

from svc_dist.errors import ChangedInputError, StorageError
from svc_dist.storage.access import DEFAULT_ACCESS, Access
from svc_dist.storage.base import (
    FileIdentity,
    Folder,
    complete,
    storage_error,
    write_all,
)
from svc_dist.storage.retry import Retries, retrying, translated

Result = TypeVar("Result")


class Objects(Folder, Protocol):
    """The files under a URL prefix, by names that may contain ``/``. Every call is tried again while that may help."""

    def names(self, prefix: str = "") -> list[str]:
        """Names of the files directly under ``prefix``, sorted, without it."""

    def require_planned(self, planned: FileIdentity) -> None:
        """Raise ChangedInputError when a file is not the planned one, where ``fetch`` would not notice."""

    def fetch(
        self, planned: FileIdentity, start: int, end: int, descriptor: int, offset: int, retries: Retries
    ) -> None:
        """Copy bytes ``[start, end)`` of a file to ``offset`` of an open local file.

        Raises ChangedInputError when the file is no longer the planned one.
        """

    def get(self, name: str) -> bytes | None:
        """A whole file; None when it does not exist."""

    def put(self, name: str, data: bytes) -> None:
        """Write a whole file: a reader sees the old one or the new one."""

    def put_new(self, name: str, data: bytes) -> bool:
        """Write a file that is not there yet; False when there is one. Not every storage can tell for sure."""

    def get_version(self, name: str) -> tuple[bytes, str | None] | None:
        """A whole file and what tells this version of it from others; None when it does not exist."""

    def put_over(self, name: str, data: bytes, version: str | None) -> bool:
        """Write over this version of a file; False when there is another one. Not every storage can tell for sure."""

    def age(self, name: str) -> float | None:
        """Seconds since a file was written, by the storage's own clock; None where that cannot be told."""

    def delete(self, name: str) -> None:
        """Remove a file; fine when it does not exist."""

    def walk(self, prefix: str) -> list[str]:
        """Names of all files under ``prefix`` at any depth, sorted, with it."""


class FsspecObjects:
    """A prefix of an fsspec file system."""

    def __init__(self, location: str, access: Access = DEFAULT_ACCESS) -> None:
        self.location = location
        self._access = access
        self.filesystem, root = access.filesystem(location)
        self._root = root.rstrip("/")

    def path(self, name: str) -> str:
        return f"{self._root}/{name}" if name else self._root

    def names(self, prefix: str = "") -> list[str]:
        def attempt() -> list[str]:
            try:
                entries = self.filesystem.ls(self.path(prefix.rstrip("/")), detail=True)
            except FileNotFoundError:
                return []
            return sorted(entry["name"].rstrip("/").rsplit("/", 1)[-1] for entry in entries if entry["type"] == "file")

        return self.retrying(attempt, f"cannot list {self.location}/{prefix}".rstrip("/"))

    def walk(self, prefix: str) -> list[str]:
        def attempt() -> list[str]:
            try:
                found = self.filesystem.find(self.path(prefix.rstrip("/")))
            except FileNotFoundError:
                return []
            return sorted(path[len(self._root) + 1 :] for path in found)

        return self.retrying(attempt, f"cannot list {self.location}/{prefix}")

    def identity(self, name: str) -> FileIdentity | None:
        def attempt() -> FileIdentity | None:
            try:
                info = self.filesystem.info(self.path(name))
            except FileNotFoundError:
                return None
            if info.get("type") == "directory":
                return None
            if info.get("size") is None:
                raise StorageError(f"{self.location}/{name}: the server does not tell its size")
            keys = ("ETag", "etag", "md5", "mtime", "LastModified", "last_modified", "created", "updated")
            version = next((f"{key.lower()}:{info[key]}" for key in keys if info.get(key)), "unversioned")
            return FileIdentity(name, int(info["size"]), version)

        return self.retrying(attempt, f"cannot look at {self.location}/{name}")

    def read(self, name: str, start: int = 0, end: int | None = None, of: FileIdentity | None = None) -> bytes:
        def attempt() -> bytes:
            data: bytes = self.filesystem.cat_file(self.path(name), start=start, end=end)
            return complete(data, f"{self.location}/{name}", start, end)

        return self.retrying(attempt, f"cannot read {self.location}/{name}")

    def fetch(
        self, planned: FileIdentity, start: int, end: int, descriptor: int, offset: int, retries: Retries
    ) -> None:
        def attempt() -> bytes:
            data: bytes = self.filesystem.cat_file(self.path(planned.name), start=start, end=end)
            return complete(data, f"{self.location}/{planned.name}", start, end)

        data = self.retrying(attempt, f"cannot read {self.location}/{planned.name}", retries)
        write_all(descriptor, data, offset)

    def require_planned(self, planned: FileIdentity) -> None:
        found = self.identity(planned.name)
        if found != planned:
            raise changed(f"{self.location}/{planned.name}", planned, found)

    def get(self, name: str) -> bytes | None:
        def attempt() -> bytes | None:
            try:
                data: bytes = self.filesystem.cat_file(self.path(name))
            except FileNotFoundError:
                return None
            return data

        return self.retrying(attempt, f"cannot read {self.location}/{name}")

    def put(self, name: str, data: bytes) -> None:
        def attempt() -> None:
            parent = self.path(name).rsplit("/", 1)[0]
            self.filesystem.makedirs(parent, exist_ok=True)
            self.filesystem.pipe_file(self.path(name), data)

        self.retrying(attempt, f"cannot write {self.location}/{name}")

    def put_new(self, name: str, data: bytes) -> bool:
        if self.identity(name) is not None:
            return False
        self.put(name, data)
        return True

    def get_version(self, name: str) -> tuple[bytes, str | None] | None:
        data = self.get(name)
        return None if data is None else (data, None)

    def put_over(self, name: str, data: bytes, version: str | None) -> bool:
        self.put(name, data)
        return True

    def age(self, name: str) -> float | None:
        return None

    def delete(self, name: str) -> None:
        def attempt() -> None:
            try:
                self.filesystem.rm_file(self.path(name))
            except FileNotFoundError:
                return

        self.retrying(attempt, f"cannot remove {self.location}/{name}")

    def retrying(self, attempt: Callable[[], Result], what: str, retries: Retries | None = None) -> Result:
        """Run an operation, its errors made ours, again while that may help."""
        ours = translated(attempt, lambda error: storage_error(error, what))
        return retrying(ours, self._access.deadline, retries)


def changed(where: str, planned: FileIdentity, found: FileIdentity | None) -> ChangedInputError:
    """The error for an input that is no longer the planned one."""
    now = "is gone" if found is None else f"found {found.size:,} bytes ({found.version})"
    return ChangedInputError(
        f"{where} changed since the plan was made: planned {planned.size:,} bytes ({planned.version}), {now}",
        "put the planned file back, or start over with --restart",
    )
