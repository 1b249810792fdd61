"""Trying again: until it works or time is up, and only what may pass."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from svc_dist.errors import StorageError, TransientStorageError
from svc_dist.storage.retry import Retries, retrying


def failing(times: int, error: type[Exception] = TransientStorageError) -> Callable[[], str]:
    left = [times]

    def attempt() -> str:
        if left[0]:
            left[0] -= 1
            raise error("cannot read it: 503")
        return "done"

    return attempt


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Pauses pass at once, on a clock of their own."""
    now, pauses = [0.0], list[float]()

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        now[0] += seconds

    monkeypatch.setattr(time, "sleep", sleep)
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return pauses


def test_what_passes_is_tried_until_it_works_and_counted(no_waiting: list[float]) -> None:
    retries = Retries()
    assert retrying(failing(6), 300, retries) == "done"
    assert retries.count == 6
    assert len(no_waiting) == 6


def test_pauses_grow_and_are_not_all_alike(no_waiting: list[float]) -> None:
    retrying(failing(12), 300)
    assert no_waiting[0] <= 0.1
    assert all(pause <= 15 for pause in no_waiting)
    assert no_waiting[8] > 8 * no_waiting[0]
    other = list(no_waiting)
    no_waiting.clear()
    retrying(failing(12), 300)
    assert no_waiting != other


def test_time_is_up_at_the_deadline_and_says_how_often_it_was_tried(no_waiting: list[float]) -> None:
    with pytest.raises(StorageError, match=r"cannot read it: 503 \(failed after \d+ attempts? in \d+ s\)") as caught:
        retrying(failing(1000), 60)
    assert not isinstance(caught.value, TransientStorageError)  # or the unit would be tried again, three times as long
    assert "run the same command again" in str(caught.value)
    assert 40 < sum(no_waiting) <= 60


def test_what_will_not_pass_fails_at_once(no_waiting: list[float]) -> None:
    with pytest.raises(StorageError, match="cannot read it"):
        retrying(failing(1, StorageError), 300)
    assert no_waiting == []


def test_a_long_wait_is_said_once(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger("svc_dist"), "propagate", True)  # a command may have cleared it
    with caplog.at_level(logging.WARNING, logger="svc_dist"):
        retrying(failing(20), 600)
    records = {id(record): record.getMessage() for record in caplog.records}  # one record may reach two handlers
    assert ["waiting for the storage" in text for text in records.values()] == [True]


def test_waiting_to_be_admitted_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    admitted: list[float] = []

    @contextmanager
    def admit() -> Iterator[None]:
        now[0] += 1000
        admitted.append(now[0])
        yield

    def attempt() -> str:
        if len(admitted) < 3:
            raise TransientStorageError("slow down")
        return "done"

    assert retrying(attempt, 10, admit=admit) == "done"
    assert len(admitted) == 3
