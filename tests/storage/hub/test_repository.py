"""A repository of a hub as a storage: pinned to a commit, read by ranges, and every refusal with what to do."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub.constants
import pytest

from svc_dist.errors import StorageError, TransientStorageError
from svc_dist.storage.access import Access, ClientOptions
from svc_dist.storage.base import FileIdentity, Storage
from svc_dist.storage.open import open_storage
from tests.support.hub import Hub


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with Hub() as server:
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)  # the tests' own switch
        monkeypatch.delenv("HF_TOKEN", raising=False)
        yield server


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What is committed first."""
    files = tmp_path / "first"
    files.mkdir()
    (files / "model.safetensors").write_bytes(bytes(range(200)))
    (files / "config.json").write_text("{}")
    return files


def storage(hub: Hub, name: str = "acme/model") -> Storage:
    access = Access({"hf://": ClientOptions(endpoint_url=hub.endpoint)})
    return open_storage(f"hf://{name}", access)


def test_files_are_listed_read_by_ranges_and_known_by_their_content(hub: Hub, folder: Path) -> None:
    hub.commit("acme/model", folder)
    files = storage(hub)
    assert files.names() == ["config.json", "model.safetensors"]
    assert files.read("model.safetensors", 5, 9) == bytes([5, 6, 7, 8])
    assert files.get("config.json") == b"{}"
    identity = files.stat("model.safetensors")
    assert identity is not None
    assert (identity.size, identity.version[:7]) == (200, "sha256:")
    assert files.stat("nosuch") is None
    assert files.read_only is not None


def test_a_storage_stays_at_the_commit_that_it_first_saw(hub: Hub, folder: Path, tmp_path: Path) -> None:
    first = hub.commit("acme/model", folder)
    files = storage(hub)
    before = files.stat("model.safetensors")
    moved = tmp_path / "second"
    moved.mkdir()
    (moved / "model.safetensors").write_bytes(bytes(200))
    hub.commit("acme/model", moved)
    assert files.read("model.safetensors", 1, 2) == b"\x01"
    assert storage(hub).read("model.safetensors", 1, 2) == b"\x00"
    assert isinstance(before, FileIdentity)
    assert storage(hub).stat("model.safetensors") != before
    assert storage(hub, f"acme/model@{first}").stat("model.safetensors") == before


def test_a_transient_answer_is_retried(hub: Hub, folder: Path) -> None:
    hub.commit("acme/model", folder)
    hub.fail = [500]
    assert storage(hub).read("model.safetensors", 0, 1) == b"\x00"
    assert not hub.fail


@pytest.mark.parametrize(
    ("status", "transient", "hint"),
    [
        (429, True, None),
        (503, True, None),
        (401, False, "hf auth login"),
        (403, False, "ask for access"),
        (416, False, None),
    ],
)
def test_statuses_are_transient_or_say_what_to_do(hub: Hub, status: int, transient: bool, hint: str | None) -> None:
    error = RuntimeError("refused")
    error.response = SimpleNamespace(status_code=status)  # type: ignore[attr-defined]
    ours = storage(hub).translate(error, "cannot read it")
    assert isinstance(ours, StorageError)
    assert isinstance(ours, TransientStorageError) is transient
    assert ours.message == f"cannot read it: the hub answered {status}"
    assert ours.hint is None if hint is None else hint in str(ours.hint)


@pytest.mark.parametrize(
    ("name", "hint"), [("acme/nowhere", "HF_TOKEN"), ("acme/model@nowhen", "owner, name and revision")]
)
def test_what_is_not_there_says_what_to_check(hub: Hub, folder: Path, name: str, hint: str) -> None:
    hub.commit("acme/model", folder)
    with pytest.raises(StorageError, match=hint):
        storage(hub, name).names()


def test_an_offline_client_says_so(hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.commit("acme/model", folder)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(StorageError, match="unset HF_HUB_OFFLINE"):
        storage(hub, "acme/another").names()
