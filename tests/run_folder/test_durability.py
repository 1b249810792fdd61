"""A receipt is written after its range is on disk, a shard appears after its receipts, the index last. Disks fail."""

from __future__ import annotations

import errno
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import svc_dist
from svc_dist.errors import ExitCode, OutputError, StorageError
from svc_dist.run.publish import publish
from svc_dist.run_folder.output import Output
from svc_dist.storage.local import LocalStorage
from tests.support.checkpoints import recipe_data, tree_state, write_llamas

KEYS = {"max_shard_size": "3KB"}


@pytest.fixture
def recipe(tmp_path: Path) -> dict[str, Any]:
    return recipe_data(write_llamas(tmp_path / "models"), **KEYS)


def test_everything_is_durable_before_what_says_so(
    recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[tuple[str, str]] = []

    def noted(kind: str, function: Callable[..., Any], name_of: Callable[..., str]) -> Callable[..., Any]:
        def wrapped(*arguments: Any) -> Any:
            name = name_of(*arguments)
            result = function(*arguments)
            events.append((kind, name.removeprefix(f"{tmp_path}/out/")))
            return result

        return wrapped

    def path_of(descriptor: int, *_: Any) -> str:
        return str(Path(f"/proc/self/fd/{descriptor}").readlink())

    monkeypatch.setattr(os, "fdatasync", noted("data", os.fdatasync, path_of))
    monkeypatch.setattr(os, "fsync", noted("sync", os.fsync, path_of))
    replaced = noted("rename", Path.replace, lambda path, target: str(target))
    monkeypatch.setattr(Path, "replace", replaced)
    report = svc_dist.merge(recipe, tmp_path / "out", slots=1)
    assert report.shards > 3

    def place(kind: str, name: str, after: int = 0) -> int:
        return events.index((kind, name), after)

    plan = svc_dist.make_plan(recipe)
    for unit in plan.units:
        shard = plan.shards[unit.shard].file
        receipt = place("rename", f".svc_dist/receipts/{unit.id}.json")
        # The range, then the receipt's bytes, its name, and the folder that holds the name.
        assert place("data", f".svc_dist/partial/{shard}") < receipt
        assert any(kind == "sync" and f".{unit.id}.json." in name for kind, name in events[:receipt])
        assert place("sync", ".svc_dist/receipts", receipt) < place("rename", shard)
    last_shard = max(place("rename", shard.file) for shard in plan.shards)
    index = place("rename", "model.safetensors.index.json")
    assert place("sync", f"{tmp_path}/out", last_shard) < place("rename", "merge_report.json") < index
    assert place("sync", f"{tmp_path}/out", index)


def broken(number: int) -> Callable[..., Any]:
    def fails(*_: Any, **__: Any) -> Any:
        raise OSError(number, os.strerror(number))

    return fails


@pytest.mark.parametrize(("owner", "call"), [(os, "fdatasync"), (os, "pwritev"), (os, "fsync"), (Path, "replace")])
@pytest.mark.parametrize("number", [errno.EIO, errno.EROFS, errno.ENOSPC])
def test_a_disk_that_fails_ends_the_merge_with_code_4_and_it_goes_on_later(
    recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: Any, call: str, number: int
) -> None:
    whole = getattr(owner, call)
    calls = [0]

    def fails_later(*arguments: Any, **options: Any) -> Any:
        calls[0] += 1
        return whole(*arguments, **options) if calls[0] < 4 else broken(number)()

    svc_dist.merge(recipe, tmp_path / "undisturbed")
    monkeypatch.setattr(owner, call, fails_later)
    with pytest.raises(StorageError, match=os.strerror(number)) as caught:
        svc_dist.merge(recipe, tmp_path / "out")
    assert caught.value.exit_code == ExitCode.STORAGE
    assert not (tmp_path / "out" / "model.safetensors.index.json").exists()
    monkeypatch.setattr(owner, call, whole)
    svc_dist.merge(recipe, tmp_path / "out")
    for file in (tmp_path / "undisturbed").glob("model*"):
        assert (tmp_path / "out" / file.name).read_bytes() == file.read_bytes()


def test_a_disk_that_becomes_read_only_ends_the_merge_with_code_4(
    recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then nothing can be removed either: neither what is staged nor the lock."""
    sync, first, receipts = os.fsync, threading.Lock(), tmp_path / "out" / ".svc_dist" / "receipts"

    def read_only_from_then_on(descriptor: int) -> None:
        if any(receipts.glob("*.json")) and first.acquire(blocking=False):  # a unit is done, and others are under way
            for owner, call in ((os, "fsync"), (os, "fdatasync"), (os, "pwritev"), (Path, "unlink"), (Path, "replace")):
                monkeypatch.setattr(owner, call, broken(errno.EROFS))
            os.fsync(descriptor)
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", read_only_from_then_on)
    with pytest.raises(StorageError, match=os.strerror(errno.EROFS)) as caught:
        svc_dist.merge(recipe, tmp_path / "out", slots=1)
    assert caught.value.exit_code == ExitCode.STORAGE
    assert (tmp_path / "out" / ".svc_dist" / "lock").exists()
    monkeypatch.undo()
    assert svc_dist.merge(recipe, tmp_path / "out").units_resumed > 0


@pytest.mark.parametrize("damage", [None, b"", b"{}"], ids=["gone", "empty", "of another release"])
def test_a_finished_shard_without_a_receipt_is_made_anew(
    recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: bytes | None
) -> None:
    svc_dist.merge(recipe, tmp_path / "undisturbed")
    put = LocalStorage.put

    def stopping(store: LocalStorage, name: str, data: bytes) -> None:
        if name == "config.json":
            raise KeyboardInterrupt
        put(store, name, data)

    monkeypatch.setattr(LocalStorage, "put", stopping)
    with pytest.raises(KeyboardInterrupt):
        svc_dist.merge(recipe, tmp_path / "out")
    monkeypatch.setattr(LocalStorage, "put", put)
    receipt = min((tmp_path / "out" / ".svc_dist" / "receipts").iterdir())
    receipt.unlink() if damage is None else receipt.write_bytes(damage)
    report = svc_dist.merge(recipe, tmp_path / "out")
    assert report.units_resumed == report.units - 1
    for file in (tmp_path / "undisturbed").glob("model*"):
        assert (tmp_path / "out" / file.name).read_bytes() == file.read_bytes()


def test_publishing_again_when_a_worker_was_lost_at_the_very_end_changes_nothing(
    recipe: dict[str, Any], tmp_path: Path
) -> None:
    svc_dist.merge(recipe, tmp_path / "out")
    before = tree_state(tmp_path / "out")
    publish(svc_dist.make_plan(recipe), Output(str(tmp_path / "out")))
    assert tree_state(tmp_path / "out") == before


def test_an_output_that_vanishes_ends_the_merge_with_code_4(
    recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put, receipts = LocalStorage.put, [0]

    def vanishing(store: LocalStorage, name: str, data: bytes) -> None:
        if name.startswith("receipts/"):
            receipts[0] += 1
            if receipts[0] == 3:
                (tmp_path / "out").rename(tmp_path / "gone")
        put(store, name, data)

    monkeypatch.setattr(LocalStorage, "put", vanishing)
    with pytest.raises(StorageError) as caught:
        svc_dist.merge(recipe, tmp_path / "out", slots=1)
    assert caught.value.exit_code == ExitCode.STORAGE
    monkeypatch.setattr(LocalStorage, "put", put)
    shutil.rmtree(tmp_path / "out", ignore_errors=True)
    assert svc_dist.merge(recipe, tmp_path / "out").units_resumed == 0


@pytest.mark.parametrize("paths", [[], ["a", "b"]], ids=["one result", "several"])
def test_a_restart_that_is_killed_while_it_removes_goes_on_and_nothing_counts_as_complete(
    recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, paths: list[str]
) -> None:
    if paths:
        recipe = recipe | {"outputs": [{"path": path, "parameters": {"lambda": 0.5}} for path in paths]}
    out = tmp_path / "out"
    svc_dist.merge(recipe, out)
    (out / "notes.txt").write_text("mine")
    whole = set(tree_state(out))
    delete = LocalStorage.delete
    for removed in (1, 4):
        left = [removed]

        def killed(store: LocalStorage, name: str, left: list[int] = left) -> None:
            if not left[0]:
                raise KeyboardInterrupt
            left[0] -= 1
            delete(store, name)

        monkeypatch.setattr(LocalStorage, "delete", killed)
        with pytest.raises(KeyboardInterrupt):
            svc_dist.merge(recipe, out, restart=True)
        monkeypatch.setattr(LocalStorage, "delete", delete)
        with pytest.raises(OutputError, match="--restart"):
            svc_dist.merge(recipe, out)
    assert svc_dist.merge(recipe, out, restart=True).units_resumed == 0
    assert set(tree_state(out)) == whole
