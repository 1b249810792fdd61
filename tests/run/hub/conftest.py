"""A hub that takes uploads, and a recipe whose merge goes there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest

import svc_dist
from svc_dist.run.session import MergeSummary
from svc_dist.storage.access import Access, ClientOptions
from tests.support.checkpoints import recipe_data, write_llamas
from tests.support.hub import TOKEN
from tests.support.hub_uploads import WritableHub


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[WritableHub]:
    with WritableHub(tmp_path / "hub") as server:
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)  # the tests' own switch
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)  # the stand-in has no such storage
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield server


@dataclass
class Merging:
    """A merge into the stand-in, again and again."""

    hub: WritableHub
    recipe: dict[str, Any]
    staging: Path

    @property
    def access(self) -> Access:
        return Access({"hf://": ClientOptions(endpoint_url=self.hub.endpoint)})

    def start(self, output: str = "hf://acme/merged", **options: Any) -> MergeSummary:
        given: dict[str, Any] = {"staging": self.staging, "access": self.access, "executor": "inline", **options}
        return svc_dist.merge(self.recipe, output, **given)

    def staged(self) -> dict[str, bytes]:
        """The files of the model in the staging folder."""
        files = (path for path in sorted(self.staging.rglob("*")) if path.is_file())
        return {path.relative_to(self.staging).as_posix(): path.read_bytes() for path in files}

    def there(self, branch: str = "main") -> dict[str, bytes]:
        """The files of a branch, but for the hub's own."""
        return {name: data for name, data in self.hub.tree("acme/merged", branch).items() if name != ".gitattributes"}


@pytest.fixture
def merging(hub: WritableHub, tmp_path: Path) -> Merging:
    recipe = recipe_data(write_llamas(tmp_path / "models"), max_shard_size="3kB")
    return Merging(hub, recipe, tmp_path / "staged")
