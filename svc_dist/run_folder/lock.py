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
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from svc_dist.errors import LockedError, StorageError
from svc_dist.storage.base import Storage, storage_error

HEARTBEAT = 5.0
EXPIRY = 60.0
#: Seconds after which a heartbeat, and what a run still writes when it ends, is abandoned.
SHORT_DEADLINE = 5.0
_own_ids: set[str] = set()  # of the remote locks that this process holds
_SETTLE = 0.5  # seconds after which, without conditional writes, the last of two that took a lock at once shows


class Lock(Protocol):
    """The right to write to an output, held for the duration of a ``with``. Entering it raises LockedError."""

    def holder(self) -> dict[str, Any] | None:
        """Who holds it, when that seems alive: id, host, pid, heartbeat in seconds since the epoch; None: nobody."""

    def require_held(self) -> None:
        """Raise LockedError when another run took over, because this one seemed dead."""

    def __enter__(self) -> Lock: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class LocalLock:
    """The file ``lock`` in a run folder, held for the duration of a ``with``.

    On one host the kernel's lock on the file decides: it ends with the process, however that ends. Between hosts that
    share a file system without such locks, the heartbeat in the file does: older than ``EXPIRY`` seconds is dead.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._id = uuid.uuid4().hex
        self._descriptor: int | None = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> LocalLock:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise storage_error(error, f"cannot make the folder {self.path.parent}") from None
        while self._descriptor is None:
            self._descriptor = self._take()
        try:
            self._beat()
        except OSError as error:
            self._let_go()
            raise storage_error(error, f"cannot write {self.path}") from None
        self._thread = threading.Thread(target=self._keep_beating, name="lock-heartbeat", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        self._let_go()

    def _let_go(self) -> None:
        assert self._descriptor is not None
        with contextlib.suppress(OSError):  # the disk may be why the run ends; without its process the file is no lock
            if _is_file(self.path, self._descriptor):
                self.path.unlink()
        os.close(self._descriptor)
        self._descriptor = None

    def holder(self) -> dict[str, Any] | None:
        holder = read_holder(self.path)
        return holder if holder is not None and is_alive(holder) else None

    def require_held(self) -> None:
        """Nothing: the kernel's lock ends with this process only."""

    def _take(self) -> int | None:
        """The locked file's descriptor, or None when the file was replaced meanwhile. Raises LockedError."""
        try:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise storage_error(error, f"cannot lock {self.path}") from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            current = _is_file(self.path, descriptor)
        except BlockingIOError:
            os.close(descriptor)
            raise _locked(str(self.path.parent.parent), read_holder(self.path)) from None
        except OSError as error:
            os.close(descriptor)
            raise storage_error(error, f"cannot lock {self.path}") from None
        if not current:
            os.close(descriptor)
            return None
        holder = read_holder(self.path)
        if holder and holder["host"] != socket.gethostname() and time.time() - holder["heartbeat"] < EXPIRY:
            os.close(descriptor)
            raise _locked(str(self.path.parent.parent), holder)
        return descriptor

    def _beat(self) -> None:
        assert self._descriptor is not None
        os.pwrite(self._descriptor, _content(self._id).ljust(512), 0)

    def _keep_beating(self) -> None:
        while not self._stop.wait(HEARTBEAT):
            with contextlib.suppress(OSError):  # a beat may fail: the next one follows, and the kernel's lock holds
                self._beat()


class RemoteLock:
    """The file ``name`` in a storage, rewritten every few seconds by its holder.

    A holder on this machine is dead when its process is; another one when its heartbeat, by the storage's clock where
    it tells it, is older than ``EXPIRY`` seconds. Every write is conditional on what was seen before it, where the
    storage honours that; where it does not, the last of two writers holds the lock, and the other notices before it
    begins. Heartbeats have a short deadline: one that hangs must not outlast the lock.
    """

    def __init__(self, storage: Storage, name: str) -> None:
        self._storage, self._name = storage, name
        self._id = uuid.uuid4().hex
        self._stop = threading.Event()
        self._lost = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> RemoteLock:
        _own_ids.add(self._id)
        try:
            there = self._storage.get_version(self._name)
            holder = None if there is None else _holder(there[0])
            if holder is not None and self._is_alive(holder):
                raise self._locked(holder)
            self._write(there, self._storage)
            time.sleep(_SETTLE)
            holder = _holder(self._storage.get(self._name))
            if holder is None or holder["id"] != self._id:  # a repeated write is refused, but it is ours
                raise self._locked(holder)
        except BaseException:
            _own_ids.discard(self._id)
            raise
        self._thread = threading.Thread(target=self._keep_beating, name="lock-heartbeat", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=HEARTBEAT)
        _own_ids.discard(self._id)
        storage = self._storage.within(SHORT_DEADLINE)
        with contextlib.suppress(StorageError):  # what is left expires
            if (_holder(storage.get(self._name)) or {}).get("id") == self._id:
                storage.delete(self._name)

    def require_held(self) -> None:
        if self._lost.is_set():
            raise LockedError(
                f"{self._storage.location}: another run took this output over while this one could not reach it",
                "nothing is lost: that run resumes with the finished units",
            )

    def holder(self) -> dict[str, Any] | None:
        holder = _holder(self._storage.get(self._name))
        return holder if holder is not None and self._is_alive(holder) else None

    def _is_alive(self, holder: dict[str, Any]) -> bool:
        if holder.get("machine") is not None and holder["machine"] == _machine():
            if holder["pid"] == os.getpid() and holder["id"] not in _own_ids:
                return False  # ours of before: it could not be removed
            return _lives(holder)
        age = self._storage.age(self._name)
        return (time.time() - float(holder["heartbeat"]) if age is None else age) < EXPIRY

    def _keep_beating(self) -> None:
        storage = self._storage.within(SHORT_DEADLINE)
        while not self._stop.wait(HEARTBEAT):
            with contextlib.suppress(StorageError):  # the next beat follows
                there = storage.get_version(self._name)
                holder = None if there is None else _holder(there[0])
                if holder is not None and holder["id"] != self._id:
                    self._lost.set()
                    return
                if not self._stop.is_set():
                    self._write(there, storage)

    def _write(self, over: tuple[bytes, str | None] | None, storage: Storage) -> None:
        """Write this holder's name over what was seen, unless that has changed since."""
        if over is None:
            storage.put_new(self._name, _content(self._id))
        else:
            storage.put_over(self._name, _content(self._id), over[1])

    def _locked(self, holder: dict[str, Any] | None) -> LockedError:
        return _locked(self._storage.location, holder)


def _is_file(path: Path, descriptor: int) -> bool:
    """Whether an open file is the one of this name."""
    try:
        return path.stat().st_ino == os.fstat(descriptor).st_ino
    except FileNotFoundError:
        return False


def read_holder(path: Path) -> dict[str, Any] | None:
    """What the lock file says of its holder: id, host, pid, heartbeat (seconds since the epoch); None when nobody."""
    try:
        return _holder(path.read_bytes())
    except OSError:
        return None


def is_alive(holder: dict[str, Any]) -> bool:
    """Whether the holder of a local lock seems alive: its process, on this host; its heartbeat, on another."""
    if holder["host"] == socket.gethostname():
        if not Path("/proc").exists():
            return _recent(holder)
        return _lives(holder)
    return _recent(holder)


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


def _holder(data: bytes | None) -> dict[str, Any] | None:
    try:
        holder = json.loads(data or b"")
    except ValueError:
        return None
    return holder if isinstance(holder, dict) and {"id", "host", "pid", "heartbeat"} <= set(holder) else None


def _machine() -> str | None:
    """What tells this boot of this machine, and this space of process numbers, from any other; None where unknown."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return None


def _lives(holder: dict[str, Any]) -> bool:
    """Whether the holder's process on this machine is there still, and no other of its number."""
    began = _started(holder["pid"])
    return began is not None and began == holder.get("started")


def _started(pid: int) -> int | None:
    """When a process of this machine began, in clock ticks since boot; None when there is none (or it is a zombie)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def _recent(holder: dict[str, Any]) -> bool:
    return time.time() - float(holder["heartbeat"]) < EXPIRY


def _locked(output: str, holder: dict[str, Any] | None) -> LockedError:
    who = f"process {holder['pid']} on {holder['host']}" if holder else "another process"
    return LockedError(
        f"{output}: another live run holds this output ({who})",
        f"wait for it (svc-dist status shows how far it is) or stop it; a dead run's lock expires after {EXPIRY:.0f} s",
    )
