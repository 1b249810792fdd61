"""Whole merges on a storage that is neither a disk nor S3."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

import svc_dist
from svc_dist.checks.clean import clean, look
from svc_dist.checks.status import read_status
from svc_dist.checks.verify import verify
from svc_dist.errors import ChangedInputError, ExitCode, OutputError, StorageError
from svc_dist.run_folder.output import Output
from svc_dist.storage.fsspec import FsspecStorage
from svc_dist.storage.writing.staged import StagedSink
from tests.support.checkpoints import recipe_data, write_llamas


@pytest.fixture
def memory() -> Iterator[str]:
    root = f"memory://{uuid.uuid4().hex}"
    yield root
    files = fsspec.filesystem("memory")
    if files.exists(root):
        files.rm(root, recursive=True)


@pytest.fixture
def models(tmp_path: Path, memory: str) -> tuple[list[str], list[Path]]:
    """The same models in the storage and on the disk."""
    local = write_llamas(tmp_path / "models", hidden=64, intermediate=128, vocabulary=200)
    objects = FsspecStorage(memory)
    for folder in local:
        for file in folder.iterdir():
            objects.put(f"{folder.name}/{file.name}", file.read_bytes())
    return [f"{memory}/{folder.name}" for folder in local], local


KEYS = {"calibrate": "svc", "max_shard_size": "60KB"}


def test_the_bytes_are_those_of_a_merge_on_a_disk(
    models: tuple[list[str], list[Path]], memory: str, tmp_path: Path
) -> None:
    there, here = models
    svc_dist.merge(recipe_data(here, **KEYS), tmp_path / "out")
    report = svc_dist.merge(recipe_data(there, **KEYS), f"{memory}/out")
    assert report.shards > 3
    objects = FsspecStorage(f"{memory}/out")
    for file in (tmp_path / "out").glob("model*"):
        assert objects.read(file.name) == file.read_bytes()
    assert objects.names(".svc_dist", recursive=True) == []
    assert read_status(f"{memory}/out").state == "complete"
    assert verify(f"{memory}/out", deep=True).ok
    again = svc_dist.merge(recipe_data(there, **KEYS), f"{memory}/out")
    assert again.units_resumed == report.units
    with pytest.raises(ChangedInputError, match="complete merge of something else"):
        svc_dist.merge(recipe_data(there, "ties", **KEYS), f"{memory}/out")


def test_a_merge_that_stopped_goes_on_and_can_be_cleaned_away(
    models: tuple[list[str], list[Path]], memory: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, output = recipe_data(models[0], **KEYS), f"{memory}/out"
    finish, finished = StagedSink.finish, list[str]()

    def fails_after_two(sink: StagedSink, shard: object, tokens: object) -> None:
        if len(finished) == 2:
            raise StorageError("no more")
        finish(sink, shard, tokens)  # type: ignore[arg-type]
        finished.append(shard.file)  # type: ignore[attr-defined]

    monkeypatch.setattr(StagedSink, "finish", fails_after_two)
    with pytest.raises(StorageError, match="no more"):
        svc_dist.merge(recipe, output, slots=1)
    monkeypatch.setattr(StagedSink, "finish", finish)
    status = read_status(output)
    assert (status.state, status.exit_code) == ("failed", ExitCode.STORAGE)
    assert status.done >= 3
    FsspecStorage(memory).put("out/foreign.txt", b"foreign")
    found = look(Output(output))
    assert sorted(found.files) == sorted(finished)
    assert all(name in found.text() for name in finished)

    done = svc_dist.merge(recipe, output)
    assert done.units_resumed == status.done
    with pytest.raises(OutputError, match="complete merge: there is nothing to clean"):
        clean(Output(output))

    monkeypatch.setattr(StagedSink, "finish", fails_after_two)
    finished.clear()
    with pytest.raises(StorageError, match="no more"):
        svc_dist.merge(recipe, f"{memory}/other", slots=1)
    FsspecStorage(memory).put("other/foreign.txt", b"foreign")
    clean(Output(f"{memory}/other"))
    assert FsspecStorage(f"{memory}/other").names(recursive=True) == ["foreign.txt"]


def test_cleaning_what_is_no_merge_is_refused(memory: str, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="holds no merge"):
        clean(Output(f"{memory}/nothing"))
    with pytest.raises(OutputError, match="holds no merge"):
        clean(Output(str(tmp_path)))


def test_an_abandoned_run_on_a_disk_is_cleaned_away(
    models: tuple[list[str], list[Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_more(*_: object) -> None:
        raise StorageError("no more")

    monkeypatch.setattr("svc_dist.storage.writing.local.LocalSink.finish", no_more)
    with pytest.raises(StorageError, match="no more"):
        svc_dist.merge(recipe_data(models[1], **KEYS), tmp_path / "out")
    (tmp_path / "out" / "foreign.txt").write_text("foreign")
    assert (tmp_path / "out" / ".svc_dist" / "partial").exists()
    clean(Output(str(tmp_path / "out")))
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["foreign.txt"]
