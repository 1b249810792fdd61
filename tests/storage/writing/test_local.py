"""Ranges out: a range stays inside its place, and a shard appears whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from svc_dist.errors import StorageError
from svc_dist.storage.writing.base import ShardFile, ShardState
from svc_dist.storage.writing.local import LocalSink

FILE = "model-00001-of-00002.safetensors"
SHARD = ShardFile(FILE, 100)


def write(sink: LocalSink, start: int, data: bytes, end: int | None = None) -> None:
    with sink.write_range(SHARD, start, start + len(data) if end is None else end, 1, []) as writer:
        writer.write(memoryview(data))
        writer.commit()


@pytest.fixture
def sink(tmp_path: Path) -> LocalSink:
    made = LocalSink(tmp_path / "out", tmp_path / "out" / ".svc_dist" / "partial")
    made.prepare([SHARD])
    return made


def test_ranges_in_any_order_make_the_shard(sink: LocalSink) -> None:
    write(sink, 60, b"c" * 40)
    write(sink, 0, b"a" * 20)
    write(sink, 20, b"b" * 40)
    sink.finish(SHARD, [])
    assert (sink.root / FILE).read_bytes() == b"a" * 20 + b"b" * 40 + b"c" * 40


def test_a_shard_is_invisible_until_it_is_finished(sink: LocalSink) -> None:
    write(sink, 0, b"a" * 100)
    assert [path.name for path in sink.root.iterdir()] == [".svc_dist"]
    assert sink.state(SHARD) == ShardState(finished=False)
    sink.finish(SHARD, [])
    assert sink.state(SHARD) == ShardState(finished=True)


def test_a_write_past_the_range_s_end_is_refused_and_changes_nothing(sink: LocalSink) -> None:
    write(sink, 0, b"a" * 100)
    with sink.write_range(SHARD, 10, 20, 1, []) as writer:
        writer.write(memoryview(b"b" * 6))
        with pytest.raises(ValueError, match="pass the range's end 20"):
            writer.write(memoryview(b"b" * 5))
    sink.finish(SHARD, [])
    assert (sink.root / FILE).read_bytes() == b"a" * 10 + b"b" * 6 + b"a" * 84


def test_a_range_that_is_not_full_cannot_be_committed(sink: LocalSink) -> None:
    with pytest.raises(ValueError, match="only 13 is written"):
        write(sink, 10, b"abc", end=20)


def test_a_range_may_be_written_again(sink: LocalSink) -> None:
    write(sink, 0, b"x" * 100)
    write(sink, 0, b"y" * 100)
    sink.finish(SHARD, [])
    assert (sink.root / FILE).read_bytes() == b"y" * 100


def test_preparing_again_keeps_what_is_there(sink: LocalSink) -> None:
    write(sink, 0, b"a" * 100)
    sink.prepare([SHARD])
    sink.finish(SHARD, [])
    sink.prepare([SHARD])
    assert (sink.root / FILE).read_bytes() == b"a" * 100
    assert not (sink.root / ".svc_dist/partial" / FILE).exists()


def test_room_is_made_before_anything_is_written(sink: LocalSink) -> None:
    sink.prepare([ShardFile("large", 3_000_000)])
    assert (sink.root / ".svc_dist/partial/large").stat().st_blocks * 512 >= 3_000_000


def test_more_room_than_there_is_is_refused_at_once(sink: LocalSink) -> None:
    with pytest.raises(StorageError, match=r"cannot make room for 288230.38 TB in .*: No space left on device"):
        sink.prepare([ShardFile("too_large", 2**58)])


def test_finishing_again_does_nothing(sink: LocalSink) -> None:
    write(sink, 0, b"a" * 100)
    for _ in range(3):
        sink.finish(SHARD, [])
    assert (sink.root / FILE).read_bytes() == b"a" * 100


def test_finishing_what_is_gone_is_an_error(sink: LocalSink) -> None:
    (sink.root / ".svc_dist/partial" / FILE).unlink()
    with pytest.raises(StorageError, match=f"{FILE} is gone"):
        sink.finish(SHARD, [])


def test_a_range_of_a_shard_that_is_not_prepared_is_an_error(sink: LocalSink) -> None:
    with pytest.raises(StorageError, match=r"cannot open .*other"):
        sink.write_range(ShardFile("other", 10), 0, 10, 1, []).__enter__()


def test_a_shard_of_another_size_is_not_ours(sink: LocalSink) -> None:
    (sink.root / FILE).write_bytes(b"other")
    (sink.root / ".svc_dist/partial" / FILE).unlink()
    assert sink.state(SHARD) is None
