"""One live run per output: a lock with a heartbeat, refused while its holder lives, taken over once it is dead."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import threading
import time
import uuid
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, Self

from svc_dist.errors import DamagedInputError, LockedError, OutputError, StorageError
from svc_dist.storage.base import Storage, os_errors
from svc_dist.storage.local import open_regular, remove_tree

HEARTBEAT = 5.0
EXPIRY = 60.0
#: Seconds after which a heartbeat, and what a run still writes when it ends, is abandoned.
SHORT_DEADLINE = 5.0
_SETTLE = 0.5  # seconds after which, without conditional writes, it shows which of two concurrent writers was the last
_SKEW = 86400.0  # seconds that a living holder's clock may be ahead
_LONGEST = 1 << 16  # bytes of a lock that are read
_LATEST = 1e12  # heartbeats from then on are no times
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

    def require_held(self) -> None:  # noqa: B027  (the kernel's lock ends with its process only)
        """Raise LockedError when another run took over, because this one seemed dead."""

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

    On one host the kernel's lock on the file decides: it ends with the process, however that ends. Between hosts that
    share a file system without such locks, the heartbeat in the file does: older than ``EXPIRY`` seconds is dead.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self._descriptor = -1

    def holder(self) -> dict[str, Any] | None:
        holder = read_holder(self.path)
        return holder if holder is not None and is_alive(holder) else None

    def _acquire(self) -> None:
        with os_errors(f"cannot make the folder {self.path.parent}"):
            make_way(self.path)
        while (descriptor := self._open_locked()) is None:
            pass
        self._descriptor = descriptor
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
            if holder and holder["host"] != socket.gethostname() and _is_recent(holder):
                raise _locked(output, holder)
            stack.pop_all()
            return descriptor

    def _beat(self) -> None:
        os.pwrite(self._descriptor, _content(self._id).ljust(512), 0)

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
            holder = _parse_holder(self._storage.get_within(self._name, _LONGEST))
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
            holder = None if current is None else _parse_holder(current[0])
            if holder is not None and self._is_alive(holder):
                raise _locked(self._storage.location, holder)
            self._write(current, self._storage)
            time.sleep(_SETTLE)
            holder = _parse_holder(self._storage.get(self._name))
            if holder is None or holder["id"] != self._id:  # a repeated write is refused, but it is ours
                raise _locked(self._storage.location, holder)
        except BaseException:
            _active_ids.discard(self._id)
            raise

    def _is_alive(self, holder: dict[str, Any]) -> bool:
        if holder.get("machine") is not None and holder["machine"] == _machine():
            if holder["pid"] == os.getpid() and holder["id"] not in _active_ids:
                return False  # an earlier lock of this process, which could not be removed
            return _runs(holder)
        age = self._storage.age(self._name)
        return _is_recent(holder) if age is None else age < EXPIRY

    def _beat(self) -> None:
        storage = self._storage.within(SHORT_DEADLINE)
        current = storage.get_version(self._name)
        holder = None if current is None else _parse_holder(current[0])
        if holder is not None and holder["id"] != self._id:
            self._lost.set()
            self._stop.set()
        if not self._stop.is_set():
            self._write(current, storage)

    def _write(self, over: tuple[bytes, str | None] | None, storage: Storage) -> None:
        """Write this holder's name over what was read, unless that has changed since."""
        if over is None:
            storage.put_new(self._name, _content(self._id))
        else:
            storage.put_over(self._name, _content(self._id), over[1])

    def _release(self) -> None:
        self._heartbeat.join(timeout=HEARTBEAT)
        _active_ids.discard(self._id)
        storage = self._storage.within(SHORT_DEADLINE)
        with contextlib.suppress(StorageError):  # a lock that stays expires
            if (_parse_holder(storage.get(self._name)) or {}).get("id") == self._id:
                storage.delete(self._name)


def make_way(path: Path) -> None:
    """Make the folder of a lock, and remove what has its name but is no lock: a link would be written through."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.parent.is_symlink():
        raise OutputError(f"{path.parent} is a symbolic link", "remove the link: a run makes this folder")
    if path.is_symlink() or (path.exists() and not path.is_file()):
        remove_tree(path)


def _is_file(path: Path, descriptor: int) -> bool:
    """Whether an open file is the one of this name."""
    try:
        return path.stat().st_ino == os.fstat(descriptor).st_ino
    except FileNotFoundError:
        return False


def read_holder(path: Path) -> dict[str, Any] | None:
    """The holder that the lock file names: id, host, pid, heartbeat (seconds since the epoch); None when nobody."""
    try:
        with open_regular(path) as file:
            return _parse_holder(file.read(_LONGEST))
    except (OSError, DamagedInputError):
        return None


def is_alive(holder: dict[str, Any]) -> bool:
    """Whether the holder of a local lock seems alive: its process, on this host; its heartbeat, on another."""
    if holder["host"] == socket.gethostname() and Path("/proc").exists():
        return _runs(holder)
    return _is_recent(holder)


def _content(identity: str) -> bytes:
    content = {
        "id": identity,
        "host": socket.gethostname(),
        "machine": _machine(),
        "pid": os.getpid(),
        "started": _started(os.getpid()),
        "heartbeat": time.time(),
    }
    return json.dumps(content).encode()


def _parse_holder(data: bytes | None) -> dict[str, Any] | None:
    try:
        holder = json.loads((data or b"")[:_LONGEST])
    except (ValueError, RecursionError):
        return None
    if not isinstance(holder, dict) or not all(isinstance(holder.get(key), str) for key in ("id", "host")):
        return None
    pid, heartbeat = holder.get("pid"), holder.get("heartbeat")
    sound = type(pid) is int and pid > 0 and isinstance(heartbeat, int | float) and 0 <= heartbeat < _LATEST
    return holder if sound else None


def _machine() -> str | None:
    """Identifies this boot of this machine and its namespace of process ids; None where that is unknown."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return None


def _runs(holder: dict[str, Any]) -> bool:
    """Whether the holder's process still runs on this machine, and its id has not gone to another process."""
    began = _started(holder["pid"])
    return began is not None and began == holder.get("started")


def _started(pid: int) -> int | None:
    """When a process of this machine began, in clock ticks since boot; None when it has ended (or is a zombie)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def _is_recent(holder: dict[str, Any]) -> bool:
    return -_SKEW < time.time() - float(holder["heartbeat"]) < EXPIRY


def _locked(output: str, holder: dict[str, Any] | None) -> LockedError:
    who = f"process {holder['pid']} on {holder['host']}" if holder else "another process"
    return LockedError(
        f"{output}: another live run holds this output ({who})",
        f"wait for it (svc-dist status shows its progress) or stop it; a dead run's lock expires after {EXPIRY:.0f} s",
    )
