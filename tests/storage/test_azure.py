"""Azure: parts are blocks, a shard is a list of them, and the storage itself honours conditions."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import svc_dist
from svc_dist.checks.verify import verify
from svc_dist.errors import ChangedInputError, DamagedInputError, LockedError, StorageError
from svc_dist.run_folder.output import Output
from svc_dist.storage.access import Access
from svc_dist.storage.azure import AzureStorage
from svc_dist.storage.base import FileIdentity
from svc_dist.storage.landing import MemoryTarget
from svc_dist.storage.open import open_storage
from svc_dist.storage.retry import Retries
from svc_dist.storage.writing.base import LostRangesError, ShardFile
from svc_dist.storage.writing.s3 import S3Sink
from tests.support.azure import Account, AzureError, azure
from tests.support.checkpoints import recipe_data, write_llamas

KEYS = {"calibrate": "svc", "max_shard_size": "60KB"}
SHARD = ShardFile("model.safetensors", 30)
PARTS = [b"a" * 12, b"b" * 8, b"c" * 10]


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Account | None]]:
    with azure(monkeypatch) as made:
        yield made


@pytest.fixture
def store(place: tuple[str, Account | None]) -> AzureStorage:
    storage = open_storage(place[0], Access(deadline=2.0))
    assert isinstance(storage, AzureStorage)
    return storage


@pytest.fixture
def account(place: tuple[str, Account | None]) -> Account:
    if place[1] is None:
        pytest.skip("a real account fails when it likes")
    return place[1]


def identity(store: AzureStorage, name: str) -> FileIdentity:
    found = store.stat(name)
    assert found is not None
    return found


def test_files_are_written_under_conditions(store: AzureStorage) -> None:
    assert (store.stat("a"), store.get("a"), store.get_version("a"), store.age("a")) == (None, None, None, None)
    store.put("a", b"one")
    assert identity(store, "a").size == 3
    assert not store.put_new("a", b"two")
    assert store.put_new("b", b"two")
    version = store.get_version("b")
    assert version is not None
    assert store.put_over("b", b"three", version[1])
    assert not store.put_over("b", b"four", version[1])
    assert store.get("b") == b"three"
    assert -2 < (store.age("b") or 0.0) < 60
    with pytest.raises(DamagedInputError, match="has 5 bytes"):
        store.get_within("b", 4)
    assert store.names() == ["a", "b"]
    store.delete("b")
    store.delete("b")
    assert store.names(recursive=True) == ["a"]


def test_only_the_planned_version_is_read(store: AzureStorage) -> None:
    store.put("a", bytes(range(100)))
    file, memory = identity(store, "a"), memoryview(bytearray(50))
    store.fetch(file, 20, 70, MemoryTarget(memory), Retries())
    assert bytes(memory) == bytes(range(20, 70))
    assert store.read_pinned(file, 5, 7) == b"\x05\x06"
    store.put("a", bytes(100))
    with pytest.raises(ChangedInputError, match="changed since the plan was made"):
        store.fetch(file, 20, 70, MemoryTarget(memory), Retries())
    store.delete("a")
    with pytest.raises(ChangedInputError, match="is gone"):
        store.read_pinned(file, 5, 7)


def test_a_shard_is_made_of_its_blocks(store: AzureStorage) -> None:
    sink = S3Sink(store, store.sub(".svc_dist"), "plan one")
    sink.prepare([SHARD])
    tokens: list[str] = []
    for first in (2, 1):
        parts = PARTS[1:] if first == 2 else PARTS[:1]
        with sink.write_range(SHARD, 0, 0, first, [len(part) for part in parts]) as writer:
            writer.write(memoryview(b"".join(parts)))
            tokens = [*writer.commit(), *tokens]
    assert store.stat(SHARD.file) is None
    state = S3Sink(store, store.sub(".svc_dist"), "plan one").state(SHARD)
    assert state is not None
    assert state.tokens == {number: [token] for number, token in enumerate(tokens, 1)}
    with pytest.raises(LostRangesError):
        sink.finish(SHARD, [*tokens[:2], tokens[2].replace("00003", "00004")])
    sink.finish(SHARD, tokens)
    assert store.get(SHARD.file) == b"".join(PARTS)
    assert store.metadata(SHARD.file) == (30, {"svc-dist-plan": "plan one"})
    sink.finish(SHARD, tokens)
    state = sink.state(SHARD)
    assert state is not None
    assert state.finished


def test_a_merge_writes_the_bytes_of_a_disk_and_resumes(
    store: AzureStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = write_llamas(tmp_path / "models", hidden=64, intermediate=128, vocabulary=200)
    for folder in here:
        for file in folder.iterdir():
            store.put(f"{folder.name}/{file.name}", file.read_bytes())
    there = [store.url(folder.name) for folder in here]
    svc_dist.merge(recipe_data(here, **KEYS), tmp_path / "out")
    output, finish, finished = store.url("out"), S3Sink.finish, list[str]()

    def fails_after_two(sink: S3Sink, shard: ShardFile, tokens: list[str]) -> None:
        if len(finished) == 2:
            raise StorageError("no more")
        finish(sink, shard, tokens)
        finished.append(shard.file)

    monkeypatch.setattr(S3Sink, "finish", fails_after_two)
    with pytest.raises(StorageError, match="no more"):
        svc_dist.merge(recipe_data(there, **KEYS), output, slots=1)
    monkeypatch.setattr(S3Sink, "finish", finish)
    report = svc_dist.merge(recipe_data(there, **KEYS), output)
    assert report.units_resumed >= 2
    merged = store.sub("out")
    for file in (tmp_path / "out").glob("model*"):
        assert merged.get(file.name) == file.read_bytes()
    assert merged.names(".svc_dist", recursive=True) == []
    assert verify(output, deep=True).ok


def test_a_second_run_is_refused(store: AzureStorage) -> None:
    output = Output(store.url("out"))
    with output.lock(), pytest.raises(LockedError), output.lock():
        pass


def test_no_byte_of_a_shard_comes_back_to_finish_it(store: AzureStorage, account: Account) -> None:
    upload = store.create_upload("m", {})
    tokens = [store.upload_part("m", upload, number, part, Retries()) for number, part in enumerate(PARTS, 1)]
    account.asked.clear()
    store.complete_upload("m", upload, tokens)
    assert [operation for operation, _ in account.asked] == ["blocks", "commit"]


def test_failures_are_retried_and_refusals_say_why(store: AzureStorage, account: Account) -> None:
    store.put("a", b"one")
    account.failures = [AzureError(503, "ServerBusy"), AzureError(500, "InternalError")]
    retries = Retries()
    store.fetch(identity(store, "a"), 0, 3, MemoryTarget(memoryview(bytearray(3))), retries)
    account.failures = [AzureError(503, "ServerBusy")]
    store.upload_part("m", store.create_upload("m", {}), 1, b"data", retries)
    assert retries.count == 1
    account.failures = [AzureError(403, "AuthorizationFailure")]
    with pytest.raises(StorageError, match=r"cannot read a in az://.*: AuthorizationFailure: ") as raised:
        store.get("a")
    assert "credentials" in str(raised.value.hint)
