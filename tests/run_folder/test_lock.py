"""One live run per output."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from svc_dist.errors import LockedError
from svc_dist.run_folder.lock import LocalLock
from svc_dist.run_folder.starts import holder as holder_module
from svc_dist.run_folder.starts.holder import EXPIRY, read_holder, runs

HOLD = "import sys, time; from pathlib import Path; from svc_dist.run_folder.lock import LocalLock\n"
HOLD += "with LocalLock(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"


def test_a_second_holder_is_refused_and_told_who_holds(tmp_path: Path) -> None:
    with LocalLock(tmp_path / "lock"), pytest.raises(LockedError, match=f"process {os.getpid()}"):
        LocalLock(tmp_path / "lock").__enter__()


def test_released_it_is_gone_and_can_be_taken_again(tmp_path: Path) -> None:
    for _ in range(2):
        with LocalLock(tmp_path / "lock"):
            assert (tmp_path / "lock").exists()
        assert not (tmp_path / "lock").exists()


def test_a_killed_holder_is_taken_over_at_once(tmp_path: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path / "lock")], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    seen = read_holder(tmp_path / "lock")
    assert seen is not None
    assert seen["pid"] == holder.pid
    assert runs(seen)
    with pytest.raises(LockedError):
        LocalLock(tmp_path / "lock").__enter__()
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert not runs(seen)
    with LocalLock(tmp_path / "lock"):
        now = read_holder(tmp_path / "lock")
        assert now is not None
        assert now["pid"] == os.getpid()


@pytest.mark.parametrize(("age", "taken"), [(1.0, False), (EXPIRY + 1, True)])
@pytest.mark.parametrize("skew", [-3600.0, 0.0, 3600.0])
def test_another_hosts_lock_counts_until_it_expires_by_the_times_of_the_file_system(
    tmp_path: Path, age: float, taken: bool, skew: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the clock of the node that holds it says."""
    monkeypatch.setattr(holder_module, "WATCH", 0.2)
    now = time.time()
    holder = {"id": "x", "host": "elsewhere", "pid": 1, "heartbeat": now - age + skew}
    (tmp_path / "lock").write_text(json.dumps(holder))
    os.utime(tmp_path / "lock", (now - age, now - age))
    lock = LocalLock(tmp_path / "lock")
    assert (lock.holder() is None) is taken
    if taken:
        with lock:
            pass
    else:
        with pytest.raises(LockedError, match="elsewhere"):
            lock.__enter__()
