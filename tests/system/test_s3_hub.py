"""A merge into a hub whose staging folder is a bucket: killed while it uploads, and resumed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest

import svc_dist
from svc_dist.run.session import MergeSummary
from svc_dist.storage.access import Access, ClientOptions
from svc_dist.storage.hub.branch import HubBranch
from svc_dist.storage.open import open_storage
from tests.support.checkpoints import recipe_data, write_llamas
from tests.support.hub import TOKEN
from tests.support.hub_uploads import WritableHub
from tests.support.s3_servers import Bucket, Moto
from tests.system.conftest import own_bucket


class Killed(BaseException):
    """What stands for SIGKILL: no handler of the package catches it."""


@pytest.fixture
def bucket(moto: Moto, monkeypatch: pytest.MonkeyPatch) -> Any:
    yield from own_bucket(moto, monkeypatch)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[WritableHub]:
    with WritableHub(tmp_path / "hub") as server:
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)  # the tests' own switch
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)  # the stand-in has no such storage
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield server


@pytest.mark.slow
@pytest.mark.parametrize("between", [0.0, 60.0])
def test_an_upload_from_a_bucket_is_resumed_and_its_run_folder_stays_there(
    bucket: Bucket, hub: WritableHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, between: float
) -> None:
    """``between``: seconds between commits. The hub knows what was sent without one."""
    monkeypatch.setattr("svc_dist.run.hub.upload._BETWEEN", between)
    recipe = recipe_data(write_llamas(tmp_path / "models"), max_shard_size="3kB")
    access = Access({"hf://": ClientOptions(endpoint_url=hub.endpoint)})
    upload, left = HubBranch.upload, [2]

    def killing(self: HubBranch, *arguments: Any) -> Any:
        if not left[0]:
            raise Killed
        left[0] -= 1
        return upload(self, *arguments)

    def start() -> MergeSummary:
        staging = f"{bucket.url}/staged"
        return svc_dist.merge(recipe, "hf://acme/merged", staging=staging, access=access, executor="inline")

    monkeypatch.setattr(HubBranch, "upload", killing)
    with pytest.raises(Killed):
        start()
    there = [name for name in hub.tree("acme/merged") if name != ".gitattributes"]
    assert hub.log.count("object") == 2
    assert there == ([] if between else ["model-00001-of-00004.safetensors", "model-00002-of-00004.safetensors"])
    left[0] = 100
    assert start().executor == "upload"
    assert hub.log.count("object") == 4
    staged = open_storage(f"{bucket.url}/staged")
    files = {name: staged.get(name) for name in staged.names(recursive=True)}
    assert {name: data for name, data in hub.tree("acme/merged").items() if name != ".gitattributes"} == files
