"""Pages of local files are in the page cache before anyone maps them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from svc_dist.storage.paging import ahead
from svc_dist.storage.paging.ahead import Ahead, make_resident

SIZE = 3 << 20


@pytest.fixture
def descriptor(tmp_path: Path) -> int:
    file = tmp_path / "file"
    file.write_bytes(bytes(SIZE))
    return os.open(file, os.O_RDONLY)


def cold(descriptor: int) -> list[int]:
    """The megabytes whose first page is not in the page cache; skips where the system does not say."""
    missing = []
    for position in range(0, SIZE, 1 << 20):
        try:
            os.preadv(descriptor, [bytearray(1)], position, os.RWF_NOWAIT)
        except BlockingIOError:
            missing.append(position >> 20)
        except (OSError, AttributeError):
            pytest.skip("this file system does not say what is cached")
    return missing


@pytest.mark.parametrize("copies", [False, True])
def test_pages_are_there_afterwards(descriptor: int, copies: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if copies:
        monkeypatch.delattr(os, "sendfile")
    os.fsync(descriptor)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)  # without it, the system reads more than it is asked for
    if len(cold(descriptor)) < 3:
        pytest.skip("the system kept the pages")
    make_resident(descriptor, 1 << 20, SIZE)
    assert 1 not in cold(descriptor)
    assert 2 not in cold(descriptor)


def test_what_was_asked_for_is_read_when_it_is_waited_for(descriptor: int, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[tuple[int, int]] = []
    monkeypatch.setattr(ahead, "make_resident", lambda _, start, end: read.append((start, end)))
    with Ahead() as asked:
        asked.add(descriptor, [(0, 5), (9, 12)])
        assert read == []
        asked.wait()
        assert read == [(0, 5), (9, 12)]
        asked.wait()
    assert len(read) == 2


def test_nothing_stays_open(descriptor: int) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    with Ahead() as asked:
        asked.add(descriptor, [(0, 5)])
        asked.wait()
        asked.add(descriptor, [(0, 5)])
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_file_that_is_shorter_than_planned_is_left_to_whoever_reads_it(descriptor: int) -> None:
    make_resident(descriptor, 0, 10 * SIZE)
