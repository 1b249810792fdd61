"""Parts of a range: sent in order of their numbers, from memory that the next range uses again."""

from __future__ import annotations

import pytest

from svc_dist.storage.retry import Retries
from svc_dist.storage.writing.base import Buffers, PartsWriter


def test_parts_are_sent_whole_whatever_pieces_come() -> None:
    sent: dict[int, bytes] = {}

    def send(number: int, data: memoryview, retries: Retries) -> str:
        sent[number] = bytes(data)
        return f"token {number}"

    data, buffers = bytes(range(250)) * 40, Buffers()
    for step in (1, 7, 999, 5000, 10_000):
        with PartsWriter(send, "file", 3, [4000, 4000, 2000], 2, buffers) as writer:
            for first in range(0, len(data), step):
                writer.write(memoryview(data)[first : first + step])
            assert writer.commit() == ("token 3", "token 4", "token 5")
        assert sent == {3: data[:4000], 4: data[4000:8000], 5: data[8000:]}
        sent.clear()


def test_memory_is_used_again_and_does_not_grow() -> None:
    buffers, seen = Buffers(), set()

    def send(number: int, data: memoryview, retries: Retries) -> str:
        seen.add(id(data.obj))
        return ""

    for _ in range(20):
        with PartsWriter(send, "file", 1, [1000] * 5 + [10], 2, buffers) as writer:
            writer.write(memoryview(bytes(5010)))
            writer.commit()
    assert len(seen) <= 3  # two that are sent and one that is filled


def test_a_larger_buffer_takes_the_place_of_a_smaller_one() -> None:
    buffers = Buffers()
    small = buffers.take(10)
    buffers.give_back(small)
    large = buffers.take(20)
    assert large is not small
    buffers.give_back(large)
    assert buffers.take(5) is large
    assert buffers.take(5) is not small


def test_a_part_that_fails_ends_the_range_and_gives_its_memory_back() -> None:
    buffers = Buffers()
    taken = []

    def send(number: int, data: memoryview, retries: Retries) -> str:
        taken.append(data.obj)
        raise OSError("no")

    writer = PartsWriter(send, "file", 1, [10, 10], 1, buffers)
    with pytest.raises(OSError, match="no"), writer:
        writer.write(memoryview(bytes(20)))
    assert buffers.take(10) is taken[0]


def test_too_many_and_too_few_bytes_are_refused() -> None:
    with PartsWriter(lambda *_: "", "file", 1, [4], 1, Buffers()) as writer:
        writer.write(memoryview(b"abc"))
        with pytest.raises(ValueError, match="file: 1 bytes are not written"):
            writer.commit()
        writer.write(memoryview(b"d"))
        with pytest.raises(ValueError, match="file: 1 bytes past the range's end"):
            writer.write(memoryview(b"e"))
