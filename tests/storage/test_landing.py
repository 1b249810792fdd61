"""Memory that stays: leased, given back, used again, never more than its limit or than the machine has."""

from __future__ import annotations

import mmap
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from svc_dist.storage.landing import FileTarget, Landing, MemoryTarget, Target

PAGE = mmap.PAGESIZE
PLENTY = 1 << 40


def plenty() -> int:
    return PLENTY


def test_memory_is_used_again() -> None:
    landing = Landing(8 * PAGE, plenty)
    with landing.lease(3 * PAGE) as first:
        assert first is not None
        first[:5] = b"bytes"
    with landing.lease(2 * PAGE) as second:
        assert second is not None
        assert bytes(second[:5]) == b"bytes"  # the same pages, not cleared


def test_leases_do_not_overlap_and_stay_within_the_limit() -> None:
    landing = Landing(4 * PAGE, plenty)
    with landing.lease(PAGE) as one, landing.lease(PAGE + 1) as two, landing.lease(PAGE) as three:
        assert one is not None
        assert two is not None
        assert three is not None
        for number, memory in enumerate((one, two, three)):
            memory[:] = bytes([number]) * len(memory)
        assert [len(memory) for memory in (one, two, three)] == [PAGE, PAGE + 1, PAGE]
        assert [set(memory) for memory in (one, two, three)] == [{0}, {1}, {2}]
        with landing.lease(1) as refused:
            assert refused is None


@given(st.lists(st.integers(1, 9), min_size=1, max_size=30), st.randoms(use_true_random=False))
def test_any_order_of_leases_keeps_them_apart(sizes: list[int], random: object) -> None:
    landing, held = Landing(16 * PAGE, plenty), []
    for number, size in enumerate(sizes):
        if held and number % 3 == 2:
            lease, memory, mark = held.pop(number % len(held))
            assert set(memory[:: PAGE // 2]) == {mark}
            lease.__exit__(None, None, None)
        lease = landing.lease(size * PAGE)
        if (memory := lease.__enter__()) is not None:
            memory[:] = bytes([number]) * len(memory)
            held.append((lease, memory, number))
        assert sum(len(memory) for _, memory, _ in held) <= 16 * PAGE
    for _, memory, mark in held:
        assert set(memory[:: PAGE // 2]) == {mark}


def test_memory_grows_only_while_the_machine_has_some() -> None:
    left = [8 * PAGE]
    landing = Landing(100 * PAGE, lambda: left[0])
    with landing.lease(2 * PAGE) as memory:
        assert memory is not None
    left[0] = PAGE
    with landing.lease(2 * PAGE) as again, landing.lease(PAGE) as more:
        assert again is not None  # touched before: nothing new is asked for
        assert more is None


def test_a_machine_that_promises_no_memory_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(mmap, "mmap", refuse)
    with Landing(8 * PAGE, plenty).lease(PAGE) as memory:
        assert memory is None


def test_a_target_takes_bytes_in_order(tmp_path: Path) -> None:
    data, memory = bytes(range(200)) * 20_000, bytearray(4_000_000)
    with (tmp_path / "scratch").open("w+b") as file:
        file.write(b"before")
        file.flush()
        targets: list[Target] = [MemoryTarget(memoryview(memory)), FileTarget(file.fileno(), 6, len(data))]
        for target in targets:
            target.write(data[:1000])
            while target.left:
                room = target.room()
                count = min(len(room), 777_777)
                room[:count] = data[target.done : target.done + count]
                target.advance(count)
            assert len(target.room()) == 0
        file.seek(0)
        assert file.read() == b"before" + data
    assert memory == data
