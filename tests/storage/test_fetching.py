"""Requests for remote ranges: few, and enough for every connection."""

from __future__ import annotations

import mmap
import threading
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from svc_dist.storage.base import FileIdentity
from svc_dist.storage.fetching import GAP, LARGEST, SMALLEST, Connections, Span, fetch_into, joined, request_size
from svc_dist.storage.fsspec import FsspecStorage
from svc_dist.storage.landing import Target
from svc_dist.storage.retry import Retries

MIB = 1 << 20


class Counting(FsspecStorage):
    """Brings zeros, and keeps what was asked for."""

    def __init__(self) -> None:
        super().__init__("memory://counting")
        self.asked: list[tuple[str, int, int]] = []
        self._lock = threading.Lock()

    def fetch(self, file: FileIdentity, start: int, end: int, target: Target, retries: Retries) -> None:
        with self._lock:
            self.asked.append((file.name, start, end))
        target.write(start.to_bytes(8, "little")[: target.left])
        target.advance(target.left)


def test_close_ranges_are_one_request() -> None:
    assert joined([(GAP + 20, GAP + 30), (0, 20), (5, 5), (3 * GAP, 3 * GAP + 1)]) == [
        (0, GAP + 30), (3 * GAP, 3 * GAP + 1)
    ]  # fmt: skip


def test_requests_grow_with_what_is_read() -> None:
    assert request_size(100 * MIB, 16) == SMALLEST == 16 * MIB
    assert request_size(512 * MIB, 16) == 32 * MIB
    assert request_size(4096 * MIB, 16) == LARGEST == 64 * MIB
    assert request_size(512 * MIB, 4) == LARGEST


@settings(max_examples=20)
@given(st.lists(st.integers(8, 80 * MIB), min_size=1, max_size=3), st.integers(1, 20))
def test_requests_cover_each_span_once(lengths: list[int], parallel: int) -> None:
    storage = Counting()
    spans, offset = [], 0
    for number, length in enumerate(lengths):
        spans.append(Span(storage, FileIdentity(str(number), length + 7, "v"), 7, 7 + length, offset))
        offset += length
    memory = memoryview(mmap.mmap(-1, offset))
    fetch_into(memory, spans, parallel, Retries())
    for span in spans:
        asked = sorted((start, end) for name, start, end in storage.asked if name == span.file.name)
        assert (asked[0][0], asked[-1][1]) == (span.start, span.end)
        assert all(one[1] == other[0] for one, other in pairwise(asked))
        for start, end in asked:
            at, known = span.offset + start - span.start, min(8, end - start)
            assert bytes(memory[at : at + known]) == start.to_bytes(8, "little")[:known]


class Blocking(Counting):
    """Waits with every request until ``go``; then it may fail."""

    def __init__(self) -> None:
        super().__init__()
        self.go, self.fails = threading.Event(), False

    def fetch(self, file: FileIdentity, start: int, end: int, target: Target, retries: Retries) -> None:
        super().fetch(file, start, end, target, retries)
        assert self.go.wait(30)
        if self.fails:
            raise ValueError(file.name)


def test_over_shared_connections_the_first_comes_first() -> None:
    storage, connections = Blocking(), Connections(2)
    memory = memoryview(mmap.mmap(-1, 64 * MIB))
    threads = []
    for name in ("first", "second"):
        span = Span(storage, FileIdentity(name, 64 * MIB, "v"), 0, 64 * MIB, 0)
        threads.append(threading.Thread(target=fetch_into, args=(memory, [span], 4, Retries(), connections)))
        threads[-1].start()
        while len(storage.asked) < 2:  # the first holds both connections before the second comes
            threads[-1].join(0.01)
    threads[1].join(0.2)
    storage.go.set()
    for thread in threads:
        thread.join(30)
    assert [name for name, _, _ in storage.asked] == ["first"] * 4 + ["second"] * 4


def test_after_a_failure_nothing_more_of_it_is_asked_for_and_others_go_on() -> None:
    storage, connections = Blocking(), Connections(1)
    storage.go.set()
    storage.fails = True
    span = Span(storage, FileIdentity("bad", 64 * MIB, "v"), 0, 64 * MIB, 0)
    memory = memoryview(mmap.mmap(-1, 64 * MIB))
    with pytest.raises(ValueError, match="bad"):
        fetch_into(memory, [span], 4, Retries(), connections)
    asked = len(storage.asked)
    assert asked < 4, "one connection: the others were cancelled, but maybe the next one"
    storage.fails = False
    fetch_into(memory, [span], 4, Retries(), connections)
    assert len(storage.asked) == asked + 4
