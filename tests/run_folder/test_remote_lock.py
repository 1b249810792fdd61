"""The lock in a storage: one holder, the dead are followed, who is overtaken learns of it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator

import fsspec
import pytest

from svc_dist.errors import LockedError
from svc_dist.run_folder import lock as lock_module
from svc_dist.run_folder.lock import RemoteLock
from svc_dist.run_folder.starts.holder import EXPIRY, content
from svc_dist.storage.fsspec import FsspecStorage


@pytest.fixture
def objects(monkeypatch: pytest.MonkeyPatch) -> Iterator[FsspecStorage]:
    monkeypatch.setattr(lock_module, "_SETTLE", 0.01)
    monkeypatch.setattr(lock_module, "HEARTBEAT", 0.05)
    root = f"memory://{uuid.uuid4().hex}"
    yield FsspecStorage(root)
    memory = fsspec.filesystem("memory")
    if memory.exists(root):
        memory.rm(root, recursive=True)


def held(objects: FsspecStorage, **changes: object) -> dict[str, object]:
    """A lock as a holder leaves it, some of it changed."""
    holder = {**json.loads(content("somebody")), **changes}
    objects.put("lock", json.dumps(holder).encode())
    return holder


def test_the_second_is_refused_while_the_first_is_alive(objects: FsspecStorage) -> None:
    with RemoteLock(objects, "lock"), pytest.raises(LockedError, match="another live run holds this output"):
        RemoteLock(objects, "lock").__enter__()
    assert objects.get("lock") is None
    with RemoteLock(objects, "lock") as again:
        again.require_held()


def test_the_heartbeat_goes_on(objects: FsspecStorage) -> None:
    with RemoteLock(objects, "lock") as lock:
        first = lock.holder()
        time.sleep(0.3)
        then = lock.holder()
    assert first is not None
    assert then is not None
    assert first["heartbeat"] < then["heartbeat"]
    assert first["id"] == then["id"]


def test_a_process_of_this_machine_that_is_gone_is_followed_at_once(objects: FsspecStorage) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    held(objects, pid=ended.pid, started=1)
    with RemoteLock(objects, "lock"):
        pass


def test_a_process_number_that_went_to_another_process_is_nobody(objects: FsspecStorage) -> None:
    held(objects, started=1)  # this process's number, but not the time when it began
    with RemoteLock(objects, "lock"):
        pass


def test_a_lock_that_this_process_could_not_let_go_of_is_nobody_s(objects: FsspecStorage) -> None:
    held(objects, id="from an earlier merge of this process")
    with RemoteLock(objects, "lock"):
        pass


def test_another_machine_s_holder_lives_as_long_as_its_heartbeat(objects: FsspecStorage) -> None:
    held(objects, machine="elsewhere", heartbeat=time.time() - EXPIRY + 5)
    with pytest.raises(LockedError):
        RemoteLock(objects, "lock").__enter__()
    held(objects, machine="elsewhere", heartbeat=time.time() - EXPIRY - 5)
    with RemoteLock(objects, "lock"):
        pass


def test_who_is_overtaken_learns_of_it_and_leaves_the_lock_alone(objects: FsspecStorage) -> None:
    with RemoteLock(objects, "lock") as lock:
        other = held(objects, id="another")
        assert lock._lost.wait(5)
        with pytest.raises(LockedError, match="took this output over"):
            lock.require_held()
    assert json.loads(objects.get("lock") or b"")["id"] == other["id"]


def test_of_two_that_write_at_once_the_last_has_it(objects: FsspecStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    first = RemoteLock(objects, "lock")

    def overwritten(name: str, data: bytes) -> bool:
        held(objects, id="another")
        return True

    monkeypatch.setattr(objects, "put_new", overwritten)
    with pytest.raises(LockedError):
        first.__enter__()


def test_rubbish_in_the_lock_is_nobody(objects: FsspecStorage) -> None:
    objects.put("lock", b"{")
    with RemoteLock(objects, "lock"):
        pass
