"""Requests in flight: fewer when the store asks to slow down, and more again."""

from __future__ import annotations

import logging
import os
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from svc_dist.storage.s3 import limiter as module
from svc_dist.storage.s3.limiter import MOST, Limiter, shared_time


@pytest.fixture(autouse=True)
def no_jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_JITTER", 0.0)


def test_the_window_doubles_until_it_is_halved_and_then_grows_slowly() -> None:
    limiter = Limiter("s3://bucket")
    first = limiter.window
    for _ in range(first):
        limiter.answered()
    assert limiter.window == 2 * first
    limiter.refused(time.monotonic())
    assert limiter.window == first
    for _ in range(first + 1):
        limiter.answered()
    assert limiter.window == first + 1


def test_one_halving_for_all_that_was_in_flight() -> None:
    limiter = Limiter("s3://bucket")
    first, began = limiter.window, time.monotonic()
    for _ in range(5):
        limiter.refused(began)
    assert limiter.window == first // 2
    limiter.refused(time.monotonic())
    assert limiter.window == first // 4


def test_the_window_has_a_least_and_a_most() -> None:
    limiter = Limiter("s3://bucket")
    for _ in range(20):
        limiter.refused(time.monotonic())
    assert limiter.window == 1
    for _ in range(MOST * MOST):
        limiter.answered()
    assert limiter.window == MOST


def test_as_many_are_in_flight_as_the_store_takes() -> None:
    """A store that refuses more than six at once: few refusals, and six of them most of the time."""
    limiter, lock = Limiter("s3://bucket"), threading.Lock()
    running = refused = done = 0
    most: list[int] = []

    def request(_: int) -> None:
        nonlocal running, refused, done
        while True:
            with limiter.slot():
                began = time.monotonic()
                with lock:
                    running += 1
                    taken = running <= 6
                    most.append(running)
                time.sleep(0.002)
                with lock:
                    running -= 1
                if taken:
                    limiter.answered()
                    done += 1
                    return
                refused += 1
                limiter.refused(began)

    with ThreadPoolExecutor(40) as pool:
        list(pool.map(request, range(600)))
    assert done == 600
    assert refused < 200
    assert limiter.window <= 12
    assert sorted(most)[len(most) // 2] >= 2  # not one by one


def test_it_says_once_that_the_store_throttles(caplog: pytest.LogCaptureFixture) -> None:
    limiter = Limiter("s3://bucket")
    with caplog.at_level(logging.INFO, "svc_dist"):
        for _ in range(3):
            limiter.refused(time.monotonic())
    assert [record.message for record in caplog.records] == [
        "s3://bucket asks to slow down: 8 requests in parallel instead of 16"
    ]


def test_a_refusal_slows_down_the_other_processes_of_the_node_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    one, other, elsewhere = (Limiter("s3://a", shared_time(bucket)) for bucket in ("a", "a", "b"))
    before, began = one.window, time.monotonic()
    for limiter in (one, other, one):  # all of them were in flight when the first one was refused
        limiter.refused(began)
    for _ in range(2):
        for limiter in (one, other, elsewhere):
            with limiter.slot():
                pass
        assert (one.window, other.window, elsewhere.window) == (before // 2, before // 2, before)


def test_a_folder_of_somebody_else_is_not_shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    folder = tmp_path / f"svc-dist-limits-{os.getuid()}"
    folder.mkdir()
    folder.chmod(0o777)
    assert shared_time("a") is None
    Limiter("s3://a", shared_time("a")).refused(time.monotonic())
