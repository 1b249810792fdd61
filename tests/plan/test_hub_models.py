"""Models named ``owner/name``: read from the local cache or the hub, and from the same commit when a run is resumed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import huggingface_hub.constants
import pytest

import svc_dist
from svc_dist.cli.texts import plan_lines
from svc_dist.errors import StorageError
from svc_dist.plan.hub_models import located
from svc_dist.recipe.load import load_recipe
from tests.support.checkpoints import recipe_data, write_llamas
from tests.support.command import shard_hashes
from tests.support.hub import Hub, write_cache


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "home" / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)  # the tests' own switch
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.chdir(tmp_path)
    with Hub() as server:
        yield server


def recipe(hub: Hub, models: list[str]) -> dict[str, object]:
    return recipe_data(models, storage={"hf://": {"endpoint_url": hub.endpoint}})


def test_ids_are_read_from_a_folder_the_cache_and_the_hub_with_the_same_result(hub: Hub, tmp_path: Path) -> None:
    folders = write_llamas(tmp_path / "models")
    svc_dist.merge(recipe_data(folders), tmp_path / "expected", executor="inline")
    snapshot = write_cache(tmp_path / "home", "acme/base", folders[0])
    commit = hub.commit("acme/one", folders[1])
    ids = ["acme/base", "acme/one@main", f"models/{folders[2].name}"]
    data = {**recipe(hub, ids), "config_source": "acme/base", "rules": [{"match": "*norm*", "keep": "one"}]}
    plan = svc_dist.make_plan(data)
    assert [(model.hub, model.location) for model in plan.models] == [
        ("acme/base", str(snapshot)),
        ("acme/one@main", f"hf://acme/one@{commit}"),
        (None, str(folders[2])),
    ]
    text = "\n".join(plan_lines(plan))
    assert f"reads acme/base from the local hub cache: {snapshot}" in text
    assert f"reads acme/one@main from the hub, at commit {commit}" in text
    del data["rules"]
    svc_dist.merge(data, tmp_path / "out", executor="inline")
    assert shard_hashes(tmp_path / "out") == shard_hashes(tmp_path / "expected")
    assert "`acme/one@main`" in (tmp_path / "out" / "README.md").read_text()


def test_a_resume_reads_the_commits_of_the_run(hub: Hub, tmp_path: Path) -> None:
    folders = write_llamas(tmp_path / "models")
    snapshot = write_cache(tmp_path / "home", "acme/base", folders[0])
    commit = hub.commit("acme/one", folders[1])
    data = recipe(hub, ["acme/base", "acme/one"])
    first = svc_dist.merge(data, tmp_path / "out", executor="inline")
    write_cache(tmp_path / "home", "acme/base", folders[2], "b" * 40)
    hub.commit("acme/one", folders[2])
    again = svc_dist.merge(data, tmp_path / "out", executor="inline")
    assert again.fingerprint == first.fingerprint
    planned = svc_dist.make_plan(data, tmp_path / "out")
    assert [model.location for model in planned.models] == [str(snapshot), f"hf://acme/one@{commit}"]
    assert svc_dist.make_plan(data).models[0].location.endswith("b" * 40)


def test_a_recipe_is_located_once(hub: Hub, tmp_path: Path) -> None:
    folders = write_llamas(tmp_path / "models")
    for folder in folders:
        write_cache(tmp_path / "home", f"acme/{folder.name}", folder)
    path = tmp_path / "recipe.yaml"
    path.write_text(
        json.dumps({**recipe_data([f"acme/{folder.name}" for folder in folders]), "merge_method": "linear"})
    )
    once = located(load_recipe(path))
    assert located(once) == once
    assert all("/snapshots/" in model.location for model in once.models)
    assert "acme/base" not in json.dumps(dict(once.plain))
    assert replace(once, hub_models={}) == once  # by location only


def test_an_error_has_the_recipes_line(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("base_model: acme/nowhere\nmodels: [{model: acme/expert}]\nmerge_method: ties\n")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(StorageError, match=r"recipe.yaml:[12] .*acme/\w+: no folder"):
        svc_dist.make_plan(path)
