"""The local cache of a hub: ids, where the cache lies, and which snapshots are whole."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from svc_dist.storage.hub.cache import HubId, cache_folder, find_snapshot, parse_hub_id
from tests.support.hub import write_cache

MODEL = HubId("acme/model", None)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def folder(tmp_path: Path, *names: str, index: tuple[str, ...] = ()) -> Path:
    files = tmp_path / "files"
    files.mkdir()
    for name in names:
        (files / name).write_text(name)
    if index:
        weight_map = {f"tensor{number}": name for number, name in enumerate(index)}
        (files / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return files


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("acme/model", MODEL),
        ("01-ai/Yi-1.5.6B", HubId("01-ai/Yi-1.5.6B", None)),
        ("acme/model@v1.0", HubId("acme/model", "v1.0")),
        ("acme/model@refs/pr/1", HubId("acme/model", "refs/pr/1")),
        *((text, None) for text in ("gpt2", "./model", "../model", "/acme/model", "~/model", "a/b/c", "acme/..")),
        *((text, None) for text in ("hf://acme/model", "acme/model+acme/a0", "acme/model@", "acme/a--b", "a b/c")),
    ],
)  # fmt: skip
def test_what_is_a_hub_id(text: str, expected: HubId | None) -> None:
    assert parse_hub_id(text) == expected
    assert expected is None or str(expected) == text


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, "/home/me/.cache/huggingface/hub"),
        ({"XDG_CACHE_HOME": "/x"}, "/x/huggingface/hub"),
        ({"XDG_CACHE_HOME": "/x", "HF_HOME": "~/h"}, "/home/me/h/hub"),
        ({"HF_HOME": "/h", "HUGGINGFACE_HUB_CACHE": "/old"}, "/old"),
        ({"HUGGINGFACE_HUB_CACHE": "/old", "HF_HUB_CACHE": "/$NEW/c"}, "/new/c"),
    ],
)
def test_the_cache_lies_where_the_hubs_client_has_it(
    variables: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"HOME": "/home/me", "NEW": "new", **variables}.items():
        monkeypatch.setenv(name, value)
    assert str(cache_folder()) == expected


def test_a_snapshot_is_found_by_branch_and_by_commit(home: Path, tmp_path: Path) -> None:
    assert find_snapshot(MODEL) is None
    whole = write_cache(home, "acme/model", folder(tmp_path, "model.safetensors"))
    for revision in (None, "main", "a" * 40):
        found = find_snapshot(HubId("acme/model", revision))
        assert found is not None
        assert (found.folder, found.missing, found.commit) == (whole, (), "a" * 40)
    assert find_snapshot(HubId("acme/model", "v2")) is None
    assert find_snapshot(HubId("acme/model", "../../main")) is None


@pytest.mark.parametrize(
    ("names", "index", "missing"),
    [
        (["config.json"], (), ("model.safetensors",)),
        (["adapter_config.json"], (), ("adapter_model.safetensors",)),
        (["adapter_config.json", "adapter_model.safetensors"], (), ()),
        (["a.safetensors"], ("a.safetensors", "b.safetensors"), ("b.safetensors",)),
        (["a.safetensors", "b.safetensors"], ("a.safetensors", "b.safetensors"), ()),
        (["model-00001-of-00002.safetensors"], (), ("model.safetensors.index.json",)),
        (["pytorch_model.bin"], (), ()),  # complete, and refused as a pickle where it is opened
    ],
)
def test_a_snapshot_lacks_what_its_index_names(
    home: Path, tmp_path: Path, names: list[str], index: tuple[str, ...], missing: tuple[str, ...]
) -> None:
    write_cache(home, "acme/model", folder(tmp_path, *names, index=index))
    found = find_snapshot(MODEL)
    assert found is not None
    assert found.missing == missing


def test_a_link_without_its_blob_is_missing_and_a_tokenizer_needs_no_weights(home: Path, tmp_path: Path) -> None:
    snapshot = write_cache(home, "acme/model", folder(tmp_path, "model.safetensors", "tokenizer.json"))
    (snapshot / "model.safetensors").resolve().unlink()
    found, of_tokenizer = find_snapshot(MODEL), find_snapshot(MODEL, tokenizer=True)
    assert found is not None
    assert of_tokenizer is not None
    assert (found.missing, of_tokenizer.missing) == (("model.safetensors",), ())
