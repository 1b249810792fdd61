"""Without locks of the kernel, the lock of an output on a disk rests on its heartbeat."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import time
from pathlib import Path

import pytest

from svc_dist.errors import LockedError
from svc_dist.run_folder.disk_lock import DiskLock
from svc_dist.run_folder.starts import holder as holder_module
from svc_dist.run_folder.starts.holder import EXPIRY, read_holder


@pytest.fixture(params=[errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK])
def no_flock(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(request.param, os.strerror(request.param))

    monkeypatch.setattr(fcntl, "flock", refuse)


@pytest.mark.usefixtures("no_flock")
def test_the_heartbeat_alone_locks_out_a_second_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with DiskLock(tmp_path / "run" / "lock") as lock:
        assert "no file locks" in caplog.text
        holder = lock.holder()
        assert holder is not None
        assert holder["pid"] == os.getpid()
        lock.require_held()
        with pytest.raises(LockedError, match="another live run"):
            DiskLock(tmp_path / "run" / "lock").__enter__()
    assert not (tmp_path / "run" / "lock").exists()


@pytest.mark.usefixtures("no_flock")
@pytest.mark.parametrize(("age", "taken"), [(1.0, False), (EXPIRY + 1, True)])
@pytest.mark.parametrize("skew", [-3600.0, 3600.0])
def test_a_run_of_another_host_counts_until_its_heartbeat_expires(
    tmp_path: Path, age: float, taken: bool, skew: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(holder_module, "WATCH", 0.2)
    now = time.time()
    holder = {"id": "x", "host": "elsewhere", "machine": "m", "pid": 1, "heartbeat": now - age + skew}
    (tmp_path / "lock").write_text(json.dumps(holder))
    os.utime(tmp_path / "lock", (now - age, now - age))
    if not taken:
        with pytest.raises(LockedError):
            DiskLock(tmp_path / "lock").__enter__()
        return
    with DiskLock(tmp_path / "lock"):
        seen = read_holder(tmp_path / "lock")
        assert seen is not None
        assert seen["pid"] == os.getpid()


def test_with_kernel_locks_it_is_the_kernel_s(tmp_path: Path) -> None:
    with DiskLock(tmp_path / "lock"), pytest.raises(LockedError, match=f"process {os.getpid()}"):
        DiskLock(tmp_path / "lock").__enter__()
    assert list(tmp_path.iterdir()) == []
