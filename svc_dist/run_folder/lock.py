"""One live run per output: a lock with a heartbeat, refused while its holder lives, taken over once it is dead."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import threading
import time
import uuid
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, Self

from svc_dist.errors import DamagedInputError, LockedError, OutputError, StorageError
from svc_dist.run_folder.starts.holder import (
    EXPIRY,
    HEARTBEAT,
    LONGEST,
    content,
    is_abandoned,
    is_beating,
    machine,
    parse_holder,
    read_holder,
    runs,
)
from svc_dist.storage.base import Storage, os_errors
from svc_dist.storage.local import LocalStorage, remove_tree

#: Seconds after which a heartbeat, and what a run still writes when it ends, is abandoned.
SHORT_DEADLINE = 5.0
_SETTLE = 0.5  # seconds after which, without conditional writes, it shows which of two concurrent writers was the last
_active_ids: set[str] = set()  # of the remote locks that this process holds


class Lock(ABC):
    """The right to write to an output, held for the duration of a ``with``. Entering it raises LockedError."""

    def __init__(self) -> None:
        self._id = uuid.uuid4().hex
        self._stop = threading.Event()
        self._heartbeat = threading.Thread(target=self._keep_beating, name="lock-heartbeat", daemon=True)

    def __enter__(self) -> Self:
        self._acquire()
        self._heartbeat.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        self._release()

    def _keep_beating(self) -> None:
        while not self._stop.wait(HEARTBEAT):
            with contextlib.suppress(OSError, StorageError):  # a beat may fail: the next one follows
                self._beat()

    @abstractmethod
    def require_held(self) -> None:
        """Raise LockedError when another run took over, because this one seemed dead, StorageError when it is gone."""

    @abstractmethod
    def holder(self) -> dict[str, Any] | None:
        """The holder, when it seems alive: id, host, pid, heartbeat in seconds since the epoch; else None."""

    @abstractmethod
    def _acquire(self) -> None: ...

    @abstractmethod
    def _beat(self) -> None: ...

    @abstractmethod
    def _release(self) -> None: ...


class LocalLock(Lock):
    """The file ``lock`` in a run folder, held for the duration of a ``with``.

    On one host the kernel's lock on the file decides: it ends with the process, however that ends. Between hosts whose
    kernels do not share such locks, the heartbeat in the file does: one that is older than ``EXPIRY`` seconds, by the
    times of the file system, and that no longer changes is of a dead run.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self._descriptor = -1
        self._output: tuple[int, int] | None = None

    def holder(self) -> dict[str, Any] | None:
        holder = read_holder(self.path)
        return holder if holder is not None and self._is_alive(holder) else None

    def require_held(self) -> None:
        output = self.path.parent.parent  # not the run folder, which --restart and publishing remove
        with contextlib.suppress(OSError):  # a server that does not answer says nothing about the folder
            if _identity(output) == self._output:
                return
            raise StorageError(f"{output}: moved or removed while a merge writes there", "run the same command again")

    def _is_alive(self, holder: dict[str, Any]) -> bool:
        if holder["host"] == socket.gethostname() and Path("/proc").exists():
            return runs(holder)
        return is_beating(LocalStorage(str(self.path.parent)), self.path.name, holder)

    def _acquire(self) -> None:
        with os_errors(f"cannot make the folder {self.path.parent}"):
            make_way(self.path)
        while (descriptor := self._open_locked()) is None:
            pass
        self._descriptor, self._output = descriptor, _identity(self.path.parent.parent)
        try:
            with os_errors(f"cannot write {self.path}"):
                os.ftruncate(descriptor, 0)
                self._beat()
        except StorageError:
            self._unlock()
            raise

    def _open_locked(self) -> int | None:
        """The locked file's descriptor, or None when the file was replaced meanwhile. Raises LockedError."""
        output = str(self.path.parent.parent)
        with os_errors(f"cannot lock {self.path}"), contextlib.ExitStack() as stack:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
            stack.callback(os.close, descriptor)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise _locked(output, read_holder(self.path)) from None
            if not _is_file(self.path, descriptor):
                return None
            holder = read_holder(self.path)
            elsewhere = holder is not None and holder["host"] != socket.gethostname()
            if elsewhere and not is_abandoned(self.path.parent, self.path.name):
                raise _locked(output, holder)
            stack.pop_all()
            return descriptor

    def _beat(self) -> None:
        os.pwrite(self._descriptor, content(self._id).ljust(512), 0)
        os.fsync(self._descriptor)  # a network file system keeps a write to itself for half a minute

    def _release(self) -> None:
        self._heartbeat.join()
        self._unlock()

    def _unlock(self) -> None:
        with contextlib.suppress(OSError):  # the disk may be why the run ends; without its process the file is no lock
            if _is_file(self.path, self._descriptor):
                self.path.unlink()
        os.close(self._descriptor)


class RemoteLock(Lock):
    """The file ``name`` in a storage, rewritten every few seconds by its holder.

    A holder on this machine is dead when its process is; another one when its heartbeat, by the storage's clock where
    it has one, is older than ``EXPIRY`` seconds. Every write is conditional on what was read before it, where the
    storage honours that; where it does not, the last of two writers holds the lock, and the other notices before it
    begins. Heartbeats have a short deadline: one that hangs must not outlast the lock.
    """

    def __init__(self, storage: Storage, name: str) -> None:
        super().__init__()
        self._storage, self._name = storage, name
        self._lost = threading.Event()

    def holder(self) -> dict[str, Any] | None:
        holder = None
        with contextlib.suppress(DamagedInputError):  # no lock that a run wrote
            holder = parse_holder(self._storage.get_within(self._name, LONGEST))
        return holder if holder is not None and self._is_alive(holder) else None

    def require_held(self) -> None:
        if self._lost.is_set():
            raise LockedError(
                f"{self._storage.location}: another run took this output over while this one could not reach it",
                "nothing is lost: that run resumes with the finished units",
            )

    def _acquire(self) -> None:
        _active_ids.add(self._id)
        try:
            current = self._storage.get_version(self._name)
            holder = None if current is None else parse_holder(current[0])
            if holder is not None and not self._may_take_over(holder):
                raise _locked(self._storage.location, holder)
            self._write(current, self._storage)
            time.sleep(_SETTLE)
            holder = parse_holder(self._storage.get(self._name))
            if holder is None or holder["id"] != self._id:  # a repeated write is refused, but it is ours
                raise _locked(self._storage.location, holder)
        except BaseException:
            _active_ids.discard(self._id)
            raise

    def _is_alive(self, holder: dict[str, Any]) -> bool:
        if holder.get("machine") is not None and holder["machine"] == machine():
            if holder["pid"] == os.getpid() and holder["id"] not in _active_ids:
                return False  # an earlier lock of this process, which could not be removed
            return runs(holder)
        return is_beating(self._storage, self._name, holder)

    def _may_take_over(self, holder: dict[str, Any]) -> bool:
        """Whether a holder is dead. On a disk, whose times nodes may set, one of another machine is watched."""
        folder = self._storage.path
        if folder is None or holder.get("machine") == machine():
            return not self._is_alive(holder)
        return is_abandoned(folder, self._name)

    def _beat(self) -> None:
        storage = self._storage.within(SHORT_DEADLINE)
        current = storage.get_version(self._name)
        holder = None if current is None else parse_holder(current[0])
        if holder is not None and holder["id"] != self._id:
            self._lost.set()
            self._stop.set()
        if not self._stop.is_set():
            self._write(current, storage)

    def _write(self, over: tuple[bytes, str | None] | None, storage: Storage) -> None:
        """Write this holder's name over what was read, unless that has changed since."""
        if over is None:
            storage.put_new(self._name, content(self._id))
        else:
            storage.put_over(self._name, content(self._id), over[1])

    def _release(self) -> None:
        self._heartbeat.join(timeout=HEARTBEAT)
        _active_ids.discard(self._id)
        storage = self._storage.within(SHORT_DEADLINE)
        with contextlib.suppress(StorageError):  # a lock that stays expires
            if (parse_holder(storage.get(self._name)) or {}).get("id") == self._id:
                storage.delete(self._name)


def make_way(path: Path) -> None:
    """Make the folder of a lock, and remove what has its name but is no lock: a link would be written through."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.parent.is_symlink():
        raise OutputError(f"{path.parent} is a symbolic link", "remove the link: a run makes this folder")
    if path.is_symlink() or (path.exists() and not path.is_file()):
        remove_tree(path)


def _identity(folder: Path) -> tuple[int, int] | None:
    """What tells a folder from another one of its name; None where there is none."""
    try:
        status = folder.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return status.st_dev, status.st_ino


def _is_file(path: Path, descriptor: int) -> bool:
    """Whether an open file is the one of this name."""
    try:
        return path.stat().st_ino == os.fstat(descriptor).st_ino
    except FileNotFoundError:
        return False


def _locked(output: str, holder: dict[str, Any] | None) -> LockedError:
    who = f"process {holder['pid']} on {holder['host']}" if holder else "another process"
    return LockedError(
        f"{output}: another live run holds this output ({who})",
        f"wait for it (svc-dist status shows its progress) or stop it; a dead run's lock expires after {EXPIRY:.0f} s",
    )
