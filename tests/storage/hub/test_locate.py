"""``owner/name``: the cache first, then the hub at one commit; each failure says what was tried and what to do."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub.constants
import pytest

from svc_dist.errors import RecipeError, StorageError
from svc_dist.storage.access import Access, ClientOptions
from svc_dist.storage.hub.cache import HubId
from svc_dist.storage.hub.locate import locate, locate_here
from tests.support.hub import Hub, write_cache

MODEL = HubId("acme/model", None)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "home" / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)  # the tests' own switch
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with Hub() as server:
        yield server


def access(hub: Hub) -> Access:
    return Access({"hf://": ClientOptions(endpoint_url=hub.endpoint)})


@pytest.fixture
def files(tmp_path: Path) -> Path:
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"x")
    return folder


def test_a_whole_snapshot_is_read_before_the_hub_is_asked(hub: Hub, files: Path, tmp_path: Path) -> None:
    snapshot = write_cache(tmp_path / "home", "acme/model", files)
    assert locate(MODEL, tmp_path / "acme/model", access(hub)) == str(snapshot)
    assert not hub.requests
    (snapshot / "model.safetensors").unlink()
    commit = hub.commit("acme/model", files)
    assert locate(MODEL, tmp_path / "acme/model", access(hub)) == f"hf://acme/model@{commit}"


def test_offline_names_the_files_that_lack_and_how_to_fetch_them(
    hub: Hub, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(StorageError, match=r"r.yaml:3: acme/model: no folder .* has no snapshot of it.*OFFLINE=1 forb"):
        locate(MODEL, tmp_path / "acme/model", access(hub), "r.yaml:3")
    snapshot = write_cache(tmp_path / "home", "acme/model", files, branch="v1")
    (snapshot / "model.safetensors").resolve().unlink()
    with pytest.raises(StorageError) as raised:
        locate(HubId("acme/model", "v1"), tmp_path / "acme/model", access(hub))
    assert "its snapshot aaaaaaaaaaaa without model.safetensors" in raised.value.message
    assert "hf download acme/model --revision v1" in str(raised.value.hint)


def test_the_misspelt_name_of_a_folder_is_no_hub_id(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "models" / "expert").mkdir(parents=True)
    for wrong in ("models/exprt", "modles/expert"):
        with pytest.raises(RecipeError, match=rf"did you mean {tmp_path}/models/expert\?.*written hf://{wrong}"):
            locate(HubId(wrong, None), tmp_path / wrong, access(hub))


def test_what_the_hub_does_not_have_says_what_was_looked_for(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"no folder .*acme/model exists.*has no snapshot") as raised:
        locate(MODEL, tmp_path / "acme/model", access(hub))
    assert "HF_TOKEN" in str(raised.value.hint)


def test_a_hub_that_cannot_be_reached_is_an_error_within_seconds(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("svc_dist.storage.hub.repository._TRIED", 0.3)
    nowhere = Access({"hf://": ClientOptions(endpoint_url="http://127.0.0.1:9")})
    began = time.monotonic()
    with pytest.raises(StorageError, match="HF_HUB_OFFLINE=1") as raised:
        locate(MODEL, tmp_path / "acme/model", nowhere)
    assert time.monotonic() - began < 10
    assert str(tmp_path / "home" / "hub") in str(raised.value)
    assert "hf download acme/model" in str(raised.value.hint)


def test_a_command_takes_a_folder_before_a_hub_id(
    hub: Hub, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    snapshot = write_cache(tmp_path / "home", "acme/model", files)
    assert locate_here("acme/model") == str(snapshot)
    (tmp_path / "acme" / "model").mkdir(parents=True)
    for text in ("acme/model", "./acme/model", "s3://bucket/model"):
        assert locate_here(text) == text
