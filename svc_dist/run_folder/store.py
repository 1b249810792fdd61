"""Small files of a run folder: whole, atomic, by name."""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

from svc_dist.storage.base import storage_error
from svc_dist.storage.fsspec import Objects
from svc_dist.storage.writing.local import sync_folder

_TOGETHER = 16  # files removed at once


class Store(Protocol):
    """Named small files under one prefix. Names may contain ``/``."""

    def put(self, name: str, data: bytes) -> None:
        """Write a whole file; a reader sees the old one or the new one."""

    def get(self, name: str) -> bytes | None:
        """A file's bytes; None when it does not exist."""

    def names(self, prefix: str) -> list[str]:
        """Names directly under ``prefix/``, sorted, without it."""

    def delete(self, name: str) -> None:
        """Remove a file; fine when it does not exist."""

    def is_empty(self) -> bool:
        """Whether nothing is under the prefix."""

    def clear(self) -> None:
        """Remove everything under the prefix, but maybe the lock: that goes with its holder."""


class RemoteStore:
    """Files under a prefix of a storage that has whole files only."""

    def __init__(self, objects: Objects, prefix: str = "") -> None:
        self._objects = objects
        self._prefix = f"{prefix}/" if prefix else ""

    def put(self, name: str, data: bytes) -> None:
        self._objects.put(self._prefix + name, data)

    def get(self, name: str) -> bytes | None:
        return self._objects.get(self._prefix + name)

    def names(self, prefix: str) -> list[str]:
        return self._objects.names(f"{self._prefix}{prefix}")

    def delete(self, name: str) -> None:
        self._objects.delete(self._prefix + name)

    def is_empty(self) -> bool:
        return not self._objects.walk(self._prefix)

    def clear(self) -> None:
        assert self._prefix, "a whole output is never cleared"
        with ThreadPoolExecutor(_TOGETHER) as pool:
            names = self._objects.walk(self._prefix)
            list(pool.map(self._objects.delete, (name for name in names if name != f"{self._prefix}lock")))


class LocalStore:
    """A folder of a mounted file system."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def put(self, name: str, data: bytes) -> None:
        target = self.root / name
        staged = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with staged.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            staged.replace(target)
            sync_folder(target.parent)
        except OSError as error:
            with contextlib.suppress(OSError):  # a disk that has become read-only refuses this too
                staged.unlink(missing_ok=True)
            raise storage_error(error, f"cannot write {target}") from None

    def get(self, name: str) -> bytes | None:
        try:
            return (self.root / name).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise storage_error(error, f"cannot read {self.root / name}") from None

    def names(self, prefix: str) -> list[str]:
        try:
            return sorted(entry.name for entry in os.scandir(self.root / prefix) if not entry.name.startswith("."))
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise storage_error(error, f"cannot list {self.root / prefix}") from None

    def delete(self, name: str) -> None:
        try:
            (self.root / name).unlink(missing_ok=True)
        except OSError as error:
            raise storage_error(error, f"cannot remove {self.root / name}") from None

    def is_empty(self) -> bool:
        return not self.root.exists()

    def clear(self) -> None:
        try:
            if self.root.exists():
                shutil.rmtree(self.root)
                sync_folder(self.root.parent)
        except OSError as error:
            raise storage_error(error, f"cannot remove {self.root}") from None
