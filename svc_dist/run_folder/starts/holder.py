"""The holder of a lock, as the lock's file names it, and whether it still lives.

On its own machine a holder lives as long as its process. On another one it lives as long as it rewrites the lock. Two
times of the storage that holds the lock show this, never a node's clock. Where a disk takes its times from the nodes
(Lustre), or says that a lock comes from the future, only a lock that stays as it is counts as abandoned.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import time
from pathlib import Path
from typing import Any

from svc_dist.errors import DamagedInputError, StorageError
from svc_dist.storage.base import Storage
from svc_dist.storage.local import LocalStorage, open_regular

HEARTBEAT = 5.0
EXPIRY = 60.0
#: Seconds for which a lock on a disk is watched that seems abandoned: more than two heartbeats.
WATCH = 12.0
_SKEW = 86400.0  # seconds that a living holder's clock may be ahead, where no storage tells the time
_LATEST = 1e12  # heartbeats from then on are no times
LONGEST = 1 << 16  #: bytes of a lock that are read
_log = logging.getLogger("svc_dist")


def is_beating(storage: Storage, name: str, holder: dict[str, Any]) -> bool:
    """Whether a holder on another machine seems alive: its lock is younger than ``EXPIRY`` by the storage's times."""
    age = storage.age(name)
    if age is None:  # nothing but the node's clocks says how old it is
        return -_SKEW < time.time() - float(holder["heartbeat"]) < EXPIRY
    return age < EXPIRY


def is_abandoned(folder: Path, name: str) -> bool:
    """Whether a lock on a disk, of a holder on another machine, is not rewritten any more: watches it for that.

    A lock that is younger than ``EXPIRY`` is not.
    """
    age = LocalStorage(str(folder)).age(name)
    if age is not None and -HEARTBEAT <= age < EXPIRY:
        return False
    seconds = EXPIRY if age is None or age < 0 else WATCH
    before, until = _state(folder / name), time.monotonic() + seconds
    if before is None:
        return True
    _log.info(f"{folder / name}: its holder is on another machine; watching for {seconds:.0f} s whether it is alive")
    while time.monotonic() < until:
        time.sleep(min(1.0, seconds / 10))
        if _state(folder / name) != before:
            return False
    return True


def _state(path: Path) -> tuple[int, bytes] | None:
    """What a heartbeat changes of a lock. It is opened for that: network file systems ask their server then."""
    try:
        with open_regular(path) as file:
            return os.fstat(file.fileno()).st_mtime_ns, file.read(LONGEST)
    except (OSError, StorageError, DamagedInputError):
        return None


def read_holder(path: Path) -> dict[str, Any] | None:
    """The holder that the lock file names: id, host, pid, heartbeat (seconds since the epoch); None when nobody."""
    try:
        with open_regular(path) as file:
            return parse_holder(file.read(LONGEST))
    except (OSError, DamagedInputError):
        return None


def content(identity: str) -> bytes:
    """What this process writes into a lock of this id."""
    holder = {
        "id": identity,
        "host": socket.gethostname(),
        "machine": machine(),
        "pid": os.getpid(),
        "started": _started(os.getpid()),
        "heartbeat": time.time(),
    }
    return json.dumps(holder).encode()


def parse_holder(data: bytes | None) -> dict[str, Any] | None:
    """The holder that a lock of these bytes names; None when they are no lock's."""
    try:
        holder = json.loads((data or b"")[:LONGEST])
    except (ValueError, RecursionError):
        return None
    if not isinstance(holder, dict) or not all(isinstance(holder.get(key), str) for key in ("id", "host")):
        return None
    pid, heartbeat = holder.get("pid"), holder.get("heartbeat")
    sound = type(pid) is int and pid > 0 and isinstance(heartbeat, int | float) and 0 <= heartbeat < _LATEST
    return holder if sound else None


def machine() -> str | None:
    """Identifies this boot of this machine and its namespace of process ids; None where that is unknown."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return None


def runs(holder: dict[str, Any]) -> bool:
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
