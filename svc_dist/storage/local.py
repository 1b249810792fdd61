"""A folder on a mounted file system: files replaced atomically and durably."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
import sys
import uuid
from collections.abc import Collection
from pathlib import Path
from typing import Any, BinaryIO

from svc_dist.errors import DamagedInputError, OutputError, has_unpaired
from svc_dist.storage.access import DEFAULT_ACCESS, Access
from svc_dist.storage.base import FileIdentity, Storage, complete, os_errors, storage_error, too_large
from svc_dist.storage.retry import Retries

#: What system calls fail with on file systems that cannot do them.
NOT_SUPPORTED = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOLCK, errno.ENODEV, errno.EINVAL, errno.EPERM)


class LocalStorage(Storage):
    """The files in a folder, but not hidden ones: a file that is being written has a hidden name.

    Names that are not Unicode are left out: no index or plan can name them.
    """

    path: Path

    def __init__(self, location: str, access: Access = DEFAULT_ACCESS) -> None:
        super().__init__(location.removeprefix("file://").removeprefix("local://"), access)
        self.path = Path(self.location)

    def names(self, folder: str = "", recursive: bool = False) -> list[str]:
        root = self.path / folder
        with os_errors(f"cannot list {root}"), contextlib.suppress(FileNotFoundError):
            if recursive:
                files = [path for path in root.rglob("*") if path.is_file() and not path.name.startswith(".")]
                return sorted(name for path in files if not has_unpaired(name := path.relative_to(root).as_posix()))
            names = (entry.name for entry in os.scandir(root) if entry.is_file() and entry.name[0] != ".")
            return sorted(name for name in names if not has_unpaired(name))
        return []

    def existing(self, folder: str, names: Collection[str]) -> set[str]:
        root = self.path / folder
        with os_errors(f"cannot look into {root}"):
            return {name for name in names if os.path.isfile(f"{root}/{name}")}  # noqa: PTH113

    def folders(self) -> list[str]:
        with os_errors(f"cannot list {self.path}"), contextlib.suppress(FileNotFoundError):
            names = (entry.name for entry in os.scandir(self.path) if entry.is_dir() and entry.name[0] != ".")
            return sorted(name for name in names if not has_unpaired(name))
        return []

    def stat(self, name: str) -> FileIdentity | None:
        status = None
        with os_errors(f"cannot look at {self.path / name}"), contextlib.suppress(FileNotFoundError):
            status = _status(self.path / name)
        if status is None:
            return None
        _require_regular(self.path / name, status)
        return local_identity(name, status)

    def read(self, name: str, start: int = 0, end: int | None = None, retries: Retries | None = None) -> bytes:
        with os_errors(f"cannot read {self.path / name}"), open_regular(self.path / name) as file:
            file.seek(start)
            data = file.read() if end is None else file.read(end - start)
        return complete(data, f"{self.path / name}", start, end)

    def get(self, name: str) -> bytes | None:
        return self.get_within(name, sys.maxsize)

    def get_within(self, name: str, largest: int) -> bytes | None:
        path = self.path / name
        with (
            os_errors(f"cannot read {path}"),
            contextlib.suppress(FileNotFoundError, NotADirectoryError),
            open_regular(path) as file,
        ):
            if (size := os.fstat(file.fileno()).st_size) > largest:
                raise too_large(str(path), size)
            return file.read()
        return None

    def put(self, name: str, data: bytes) -> None:
        target = self.path / name
        staged = target.with_name(f".{target.name[:50]}.{uuid.uuid4().hex}")  # no longer than the longest name
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

    def put_new(self, name: str, data: bytes) -> bool:
        """Exact where the file system has hard links."""
        target = self.path / name
        staged = f"{target.parent.relative_to(self.path)}/.{target.name}.{uuid.uuid4().hex}"
        self.put(staged, data)
        try:
            target.hardlink_to(self.path / staged)
            return True
        except FileExistsError:
            return False
        except OSError:  # without hard links
            return super().put_new(name, data)
        finally:
            self.delete(staged)

    def age(self, name: str) -> float | None:
        """Between two times of the file system, the file's and that of a file made now: no node's clock counts."""
        probe = self.path / f".now-{uuid.uuid4().hex}"
        try:
            with open_regular(self.path / name) as file:  # opened: network file systems then ask their server
                written = os.fstat(file.fileno()).st_mtime
            try:
                with probe.open("xb") as made:
                    made.write(b"0")
                    made.flush()
                    os.fsync(made.fileno())
                    return os.fstat(made.fileno()).st_mtime - written
            finally:
                probe.unlink(missing_ok=True)
        except OSError:  # nothing of this name, or a folder that cannot be written to
            return None

    def delete(self, name: str) -> None:
        with os_errors(f"cannot remove {self.path / name}"):
            (self.path / name).unlink(missing_ok=True)

    def clear(self, keep: Collection[str] = ()) -> None:
        """Remove the folder with all that is in it, ``keep`` too: the kernel's lock is on an open file."""
        with os_errors(f"cannot remove {self.path}"):
            if self.path.exists():
                remove_tree(self.path)
                sync_folder(self.path.parent)

    def sub(self, folder: str) -> LocalStorage:
        return LocalStorage(str(self.path / folder), self.access)


def local_identity(name: str, status: os.stat_result) -> FileIdentity:
    """The identity of a file by its status."""
    return FileIdentity(name, status.st_size, f"mtime:{status.st_mtime_ns}")


def is_there(path: str | Path) -> bool:
    """Whether a file or folder is there: not so for a name that no file can have, for which pathlib raises."""
    return os.path.exists(path)  # noqa: PTH110


def is_folder(path: str | Path) -> bool:
    """The same for a folder."""
    return os.path.isdir(path)  # noqa: PTH112


def disk_usage(folder: Path) -> Any:
    """The ``total``, ``used`` and ``free`` bytes of the disk on which a folder is, or will be made. Raises
    StorageError."""
    with os_errors(f"cannot look at the disk of {folder}"):
        return shutil.disk_usage(next(path for path in (folder, *folder.absolute().parents) if path.exists()))


def open_regular(path: Path) -> BinaryIO:
    """A file to be read. Raises DamagedInputError for anything else: a pipe would wait for ever, a device may act."""
    _require_regular(path, _status(path))
    return open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb")


def remove_tree(path: Path) -> None:
    """Remove whatever has this name: a folder with all that is in it, of a link only the link."""
    with contextlib.suppress(FileNotFoundError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _status(path: Path) -> os.stat_result:
    try:
        return path.stat()
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise DamagedInputError(f"{path} is a symbolic link to itself", "remove it") from None


def _require_regular(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise DamagedInputError(f"{path} is not a regular file", "remove it, or put the file in its place")


def sync_folder(path: Path) -> None:
    """Make renames and new names in a folder durable, where the file system can: some cannot open or sync folders."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in (*NOT_SUPPORTED, errno.EISDIR, errno.EBADF):
            raise


def require_replaceable(path: Path) -> None:
    """Raise OutputError where a file that a user names is a device or a link to an open file.

    A rename would put a file in its place. Root may do that to /dev/null and /dev/stdout, and no other program has
    them after that. What stands in the way inside a run folder is replaced.
    """
    with contextlib.suppress(OSError):
        mode = path.stat().st_mode
        stream = path.is_symlink() and path.readlink().is_relative_to("/proc")
        if stream or stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
            raise OutputError(f"{path} is a device or an open stream, which cannot be replaced", "name a file")
