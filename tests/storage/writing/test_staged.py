"""Ranges out to a storage without parts: pieces, then one write, and nothing half-done passes for finished."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from svc_dist.errors import StorageError
from svc_dist.storage.fsspec import FsspecStorage
from svc_dist.storage.writing.base import ShardFile, ShardState
from svc_dist.storage.writing.staged import StagedSink

SHARD = ShardFile("model.safetensors", 30)
PARTS = [b"a" * 12, b"b" * 8, b"c" * 10]


@pytest.fixture(params=["memory", "file"])
def objects(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[FsspecStorage]:
    """Both storages through fsspec, the second one although a disk has a sink of its own."""
    root = f"memory://{uuid.uuid4().hex}" if request.param == "memory" else f"file://{tmp_path}/out"
    yield FsspecStorage(root)
    if request.param == "memory":
        fsspec.filesystem("memory").rm(root, recursive=True)


@pytest.fixture
def sink(objects: FsspecStorage) -> StagedSink:
    made = StagedSink(objects, objects.sub(".svc_dist"), "plan one")
    made.prepare([SHARD])
    return made


def write(sink: StagedSink, first: int, parts: list[bytes]) -> tuple[str, ...]:
    with sink.write_range(SHARD, 0, 0, first, [len(part) for part in parts]) as writer:
        for byte in b"".join(parts):
            writer.write(memoryview(bytes([byte])))
        return writer.commit()


def test_ranges_in_any_order_make_the_shard_and_leave_no_piece(sink: StagedSink, objects: FsspecStorage) -> None:
    last = write(sink, 3, PARTS[2:])
    tokens = [*write(sink, 1, PARTS[:2]), *last]
    assert objects.stat(SHARD.file) is None
    assert sink.state(SHARD) == ShardState(False, {number: [token] for number, token in enumerate(tokens, 1)})
    sink.finish(SHARD, tokens)
    assert objects.read(SHARD.file) == b"".join(PARTS)
    assert sink.state(SHARD) == ShardState(True)
    assert objects.names(".svc_dist/pieces", recursive=True) == []
    sink.finish(SHARD, tokens)


def test_a_shard_that_was_cut_short_is_written_again(sink: StagedSink, objects: FsspecStorage) -> None:
    tokens = write(sink, 1, PARTS)
    objects.put(SHARD.file, b"x" * 30)  # as long as it should be, and yet nobody finished it
    held = sink.state(SHARD)
    assert held is not None
    assert not held.finished
    sink.finish(SHARD, tokens)
    assert objects.read(SHARD.file) == b"".join(PARTS)


def test_another_plan_s_shard_is_not_ours(sink: StagedSink, objects: FsspecStorage) -> None:
    sink.finish(SHARD, write(sink, 1, PARTS))
    other = StagedSink(objects, objects.sub(".svc_dist"), "plan two").state(SHARD)
    assert other is not None
    assert not other.finished


def test_a_piece_that_is_gone_is_named_and_nothing_is_finished(sink: StagedSink, objects: FsspecStorage) -> None:
    tokens = write(sink, 1, PARTS)
    objects.delete(f".svc_dist/pieces/{SHARD.file}/{tokens[1]}")
    with pytest.raises(StorageError, match="1 of 3 pieces are gone"):
        sink.finish(SHARD, tokens)
    assert objects.stat(SHARD.file) is None


def test_a_range_must_be_full_and_not_more(sink: StagedSink) -> None:
    with sink.write_range(SHARD, 0, 20, 1, [12, 8]) as writer:
        writer.write(memoryview(b"a" * 19))
        with pytest.raises(ValueError, match="1 bytes are not written"):
            writer.commit()
        writer.write(memoryview(b"a"))
        with pytest.raises(ValueError, match="1 bytes past the range's end"):
            writer.write(memoryview(b"a"))


def test_a_storage_that_joins_objects_itself_gets_no_byte_twice(
    objects: FsspecStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Google's joins at most 32 objects in one request: 70 pieces are two levels of joins, and none is read here."""
    requests: list[int] = []
    raw = objects.filesystem

    def merge(target: str, sources: list[str]) -> None:
        requests.append(len(sources))
        raw.makedirs(target.rpartition("/")[0], exist_ok=True)
        raw.pipe_file(target, b"".join(raw.cat_file(source) for source in sources))

    monkeypatch.setattr(raw, "merge", merge, raising=False)
    monkeypatch.setattr(objects, "_composes", True)
    sink = StagedSink(objects, objects.sub(".svc_dist"), "plan one")
    shard, parts = ShardFile("model.safetensors", 140), [bytes([number, 1]) for number in range(70)]
    with sink.write_range(shard, 0, 140, 1, [2] * 70) as writer:
        writer.write(memoryview(b"".join(parts)))
        tokens = writer.commit()
    with monkeypatch.context() as reading:
        reading.setattr(FsspecStorage, "read", None)
        sink.finish(shard, tokens)
    assert sorted(requests) == [3, 6, 32, 32]
    assert objects.read(shard.file) == b"".join(parts)
    assert sink.state(shard) == ShardState(True)
    assert objects.names(".svc_dist/pieces", recursive=True) == []
