"""Holders on other machines: their locks are timed by the file system, and watched where its times are the nodes'."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from svc_dist.run_folder.starts import holder as holders
from svc_dist.run_folder.starts.holder import EXPIRY, content, is_abandoned, is_beating, parse_holder, read_holder
from svc_dist.storage.local import LocalStorage


@pytest.fixture
def lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(holders, "WATCH", 0.3)
    monkeypatch.setattr(holders, "EXPIRY", 0.6)
    monkeypatch.setattr(holders, "HEARTBEAT", 0.1)
    (tmp_path / "lock").write_bytes(content("somebody"))
    return tmp_path / "lock"


def written(lock: Path, age: float) -> None:
    """Have a lock this old by its file system."""
    os.utime(lock, (time.time() - age, time.time() - age))


def beating(lock: Path, age: float) -> Callable[[], None]:
    """A holder whose node, by a wrong clock, writes times that are always this old. Returns what ends it."""
    over = threading.Event()

    def beat() -> None:
        while not over.wait(0.05):
            written(lock, age)

    thread = threading.Thread(target=beat)
    thread.start()
    return lambda: (over.set(), thread.join())[0]  # type: ignore[func-returns-value]


@pytest.mark.parametrize("clock", [-3600.0, 3600.0])
@pytest.mark.parametrize(("age", "beats"), [(1.0, True), (EXPIRY - 5, True), (EXPIRY + 5, False)])
def test_no_clock_of_a_node_says_how_old_a_lock_is(
    tmp_path: Path, clock: float, age: float, beats: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lock").write_bytes(content("somebody"))
    written(tmp_path / "lock", age)
    holder, now = read_holder(tmp_path / "lock"), time.time()
    assert holder is not None
    monkeypatch.setattr(holders.time, "time", lambda: now + clock)
    assert is_beating(LocalStorage(str(tmp_path)), "lock", holder) is beats


def test_a_storage_without_times_leaves_the_clocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LocalStorage, "age", lambda storage, name: None)
    holder = parse_holder(content("somebody"))
    assert holder is not None
    storage = LocalStorage(str(tmp_path))
    assert is_beating(storage, "lock", holder)
    assert not is_beating(storage, "lock", {**holder, "heartbeat": time.time() - EXPIRY - 1})


def test_a_lock_that_stays_as_it_is_is_abandoned(lock: Path) -> None:
    assert not is_abandoned(lock.parent, "lock"), "it is young"
    written(lock, 10.0)
    began = time.monotonic()
    assert is_abandoned(lock.parent, "lock")
    assert time.monotonic() - began >= 0.3
    written(lock, -100.0)
    began = time.monotonic()
    assert is_abandoned(lock.parent, "lock")
    assert time.monotonic() - began >= 0.6, "one from the future is watched for as long as a lock lives"


@pytest.mark.parametrize("age", [100.0, -100.0])
def test_a_lock_that_changes_is_not_whatever_its_time_says(lock: Path, age: float) -> None:
    written(lock, age)
    end = beating(lock, age)
    try:
        assert not is_abandoned(lock.parent, "lock")
    finally:
        end()


def test_a_lock_that_is_gone_is_nobodys(lock: Path) -> None:
    lock.unlink()
    assert is_abandoned(lock.parent, "lock")


def test_ages_leave_nothing_behind(lock: Path) -> None:
    storage = LocalStorage(str(lock.parent))
    written(lock, 100.0)
    assert 99 < (storage.age("lock") or 0.0) < 110
    assert storage.age("nothing") is None
    assert list(lock.parent.iterdir()) == [lock]
