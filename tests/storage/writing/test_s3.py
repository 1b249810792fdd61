"""Shards written as multipart uploads: one upload a shard, resumed by its record, and others' uploads left alone."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from svc_dist.errors import OutputError, StorageError
from svc_dist.storage.s3.client import forget_clients
from svc_dist.storage.s3.storage import S3Storage
from svc_dist.storage.writing.base import LostRangesError, ShardFile, ShardState
from svc_dist.storage.writing.s3 import S3Sink, drop_uploads
from tests.support.s3_servers import Moto

PART = 5 << 20  # the least that S3 takes of any part but the last
SHARD = ShardFile("model-00001-of-00001.safetensors", PART + 3)


@pytest.fixture(scope="module")
def moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Moto]:
    with Moto(tmp_path_factory.mktemp("moto")) as server:
        yield server


@pytest.fixture
def storage(moto: Moto, monkeypatch: pytest.MonkeyPatch) -> S3Storage:
    forget_clients()
    for name, value in moto.environment.items():
        monkeypatch.setenv(name, value)
    bucket = f"test-{uuid.uuid4().hex[:12]}"
    moto.make_bucket(bucket)
    return S3Storage(f"s3://{bucket}/out")


def sink(storage: S3Storage, fingerprint: str = "plan one") -> S3Sink:
    return S3Sink(storage, storage.sub(".svc_dist"), fingerprint)


def write(target: S3Sink, data: bytes = b"a" * PART + b"end") -> tuple[str, ...]:
    with target.write_range(SHARD, 0, SHARD.size, 1, [PART, 3]) as writer:
        writer.write(memoryview(data))
        return writer.commit()


def test_a_shard_is_there_once_it_is_finished_and_not_before(storage: S3Storage) -> None:
    target = sink(storage)
    assert target.state(SHARD) is None
    target.prepare([SHARD])
    tokens = write(target)
    state = target.state(SHARD)
    assert state is not None
    assert not state.finished
    assert {number: list(found) for number, found in (state.tokens or {}).items()} == {1: [tokens[0]], 2: [tokens[1]]}
    assert storage.stat(SHARD.file) is None
    target.finish(SHARD, tokens)
    assert target.state(SHARD) == ShardState(True)
    assert storage.read(SHARD.file, PART - 1, PART + 3) == b"aend"
    target.finish(SHARD, tokens)


def test_a_later_start_sends_to_the_same_upload(storage: S3Storage) -> None:
    sink(storage).prepare([SHARD])
    uploads = storage.uploads([SHARD.file])
    tokens = write(sink(storage))
    sink(storage).prepare([SHARD])
    assert storage.uploads([SHARD.file]) == uploads
    sink(storage).finish(SHARD, tokens)


def test_an_object_that_no_run_of_this_plan_wrote_is_refused(storage: S3Storage) -> None:
    storage.put(SHARD.file, b"mine")
    for call in (lambda: sink(storage).prepare([SHARD]), lambda: sink(storage).state(SHARD)):
        with pytest.raises(OutputError, match="no run of this plan"):
            call()
    assert storage.get(SHARD.file) == b"mine"


def test_parts_that_are_not_those_that_were_sent_are_lost(storage: S3Storage) -> None:
    target = sink(storage)
    target.prepare([SHARD])
    tokens = write(target)
    with pytest.raises(LostRangesError, match="its parts are not those that were sent"):
        target.finish(SHARD, [tokens[0], '"00000000000000000000000000000000"'])
    assert storage.stat(SHARD.file) is None


def test_an_upload_that_was_dropped_is_created_anew(storage: S3Storage) -> None:
    target = sink(storage)
    target.prepare([SHARD])
    (upload,) = storage.uploads([SHARD.file])[SHARD.file]
    storage.abort_upload(SHARD.file, upload)
    assert target.state(SHARD) is None
    target.prepare([SHARD])
    target.finish(SHARD, write(target))
    assert target.state(SHARD) == ShardState(True)


def test_a_range_without_an_upload_says_what_to_do(storage: S3Storage) -> None:
    with pytest.raises(StorageError, match="run the same command again"):
        write(sink(storage))


def test_only_uploads_of_runs_are_dropped(storage: S3Storage, tmp_path: Path) -> None:
    others = storage.create_upload(SHARD.file, {})
    sink(storage).prepare([SHARD])
    assert len(storage.uploads([SHARD.file])[SHARD.file]) == 2
    drop_uploads(storage, storage.sub(".svc_dist"))
    assert storage.uploads([SHARD.file]) == {SHARD.file: [others]}
    assert storage.sub(".svc_dist").names(recursive=True) == []
