"""Models of a hub as inputs, read over its HTTP interface from a stand-in of it."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub.constants
import pytest

import svc_dist
from svc_dist.checkpoint.checkpoint import open_checkpoint
from svc_dist.errors import ChangedInputError, OutputError, RecipeError, StorageError
from svc_dist.run.session import MergeSummary
from svc_dist.run_folder.output import Output
from svc_dist.storage.access import Access, ClientOptions
from svc_dist.storage.reading import ByteRange, Source
from tests.support.checkpoints import recipe_data, write_llamas, write_recipe
from tests.support.command import command, environment, shard_hashes
from tests.support.hub import TOKEN, Hub


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with Hub() as server:
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)  # the tests' own switch
        monkeypatch.delenv("HF_TOKEN", raising=False)
        yield server


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    return write_llamas(tmp_path / "models")


def upload(hub: Hub, folders: list[Path]) -> list[str]:
    for folder in folders:
        hub.commit(f"acme/{folder.name}", folder)
    return [f"hf://acme/{folder.name}" for folder in folders]


def merge(hub: Hub, locations: list[str], output: Path) -> MergeSummary:
    recipe = recipe_data(locations, storage={"hf://": {"endpoint_url": hub.endpoint}})
    return svc_dist.merge(recipe, output, executor="inline")


def test_a_merge_of_a_hubs_models_has_the_bytes_of_the_local_merge(
    hub: Hub, folders: list[Path], tmp_path: Path
) -> None:
    svc_dist.merge(recipe_data(folders), tmp_path / "local", executor="inline")
    merge(hub, upload(hub, folders), tmp_path / "out")
    assert shard_hashes(tmp_path / "out") == shard_hashes(tmp_path / "local")
    assert hub.requests["resolve"] > 0


def test_the_command_finds_the_hub_by_the_environment(hub: Hub, folders: list[Path], tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "recipe.yaml", upload(hub, folders))
    told = {**environment(tmp_path / "home"), "HF_HUB_OFFLINE": "0", "HF_ENDPOINT": hub.endpoint}
    done = subprocess.run(command("plan", recipe), env=told, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "2 experts into the base hf://acme/base" in done.stdout


def test_files_in_sub_folders_of_a_repository_are_planned(hub: Hub, folders: list[Path]) -> None:
    (folders[0] / "additional_chat_templates").mkdir()
    (folders[0] / "additional_chat_templates" / "tools.jinja").write_text("tools")
    recipe = recipe_data(upload(hub, folders), storage={"hf://": {"endpoint_url": hub.endpoint}})
    plan = svc_dist.make_plan(recipe)
    copied = {sidecar.name for sidecar in plan.sidecars}
    assert copied == {"config.json", "additional_chat_templates/tools.jinja"}
    assert plan.warnings == ()


def test_a_revision_names_a_branch_or_a_commit(hub: Hub, folders: list[Path], tmp_path: Path) -> None:
    first = hub.commit("acme/model", folders[1])
    hub.commit("acme/model", folders[2])
    hub.commit("acme/model", folders[1], branch="v1")
    base = upload(hub, folders)[0]
    expected = {}
    for name, folder in (("first", folders[1]), ("newest", folders[2])):
        svc_dist.merge(recipe_data([folders[0], folder]), tmp_path / name, executor="inline")
        expected[name] = shard_hashes(tmp_path / name)
    for number, (revision, same) in enumerate([(f"@{first}", "first"), ("@v1", "first"), ("", "newest")]):
        output = tmp_path / f"out{number}"
        merge(hub, [base, f"hf://acme/model{revision}"], output)
        assert shard_hashes(output) == expected[same]


def test_a_branch_that_moved_since_the_plan_is_noticed(hub: Hub, folders: list[Path], tmp_path: Path) -> None:
    access = Access({"hf://": ClientOptions(endpoint_url=hub.endpoint)})
    location = upload(hub, folders)[1]
    planned = open_checkpoint(location, access)
    moved = tmp_path / "moved"
    shutil.copytree(folders[1], moved)
    file = planned.files[0].name
    data = bytearray((moved / file).read_bytes())
    data[-1] ^= 1
    (moved / file).write_bytes(data)
    hub.commit("acme/" + folders[1].name, moved)
    with (
        pytest.raises(ChangedInputError, match=f"{file} changed since the plan was made"),
        Source(location, planned.files, access).map([ByteRange(file, 0, 8)]),
    ):
        pass


def test_errors_that_pass_are_tried_again(hub: Hub, folders: list[Path], tmp_path: Path) -> None:
    locations = upload(hub, folders)
    hub.fail = [500, 429]
    report = merge(hub, locations, tmp_path / "out")
    assert report.units > 0
    assert not hub.fail


def test_what_is_not_there_or_not_allowed_ends_at_once_with_what_to_do(
    hub: Hub, folders: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, expert = upload(hub, folders)[:2]
    for wrong in ("hf://acme/nowhere", f"{expert}@nowhen"):
        with pytest.raises(StorageError, match="hf://owner/name@revision"):
            merge(hub, [base, wrong], tmp_path / "out")
    hub.private.add("acme/" + folders[1].name)
    with pytest.raises(StorageError, match="HF_TOKEN"):
        merge(hub, [base, expert], tmp_path / "out")
    monkeypatch.setenv("HF_TOKEN", "hf_anotherTokenAltogether")
    with pytest.raises(StorageError) as refused:
        merge(hub, [base, expert], tmp_path / "out")
    assert "hf_anotherTokenAltogether" not in str(refused.value)


def test_a_token_opens_a_private_repository_and_is_written_nowhere(
    hub: Hub, folders: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    locations = upload(hub, folders)
    hub.private.add("acme/" + folders[1].name)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    merge(hub, locations, tmp_path / "out")
    for file in (tmp_path / "out").rglob("*"):
        assert file.is_dir() or TOKEN.encode() not in file.read_bytes()


def test_an_offline_client_is_told_as_such(folders: list[Path], tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="unset HF_HUB_OFFLINE"):
        svc_dist.merge(recipe_data([folders[0], "hf://acme/expert"]), tmp_path / "out", executor="inline")


def test_a_hub_is_no_output_of_ranges() -> None:
    with pytest.raises(OutputError, match="a hub takes whole files only"):
        Output("hf://acme/merged")


def test_a_missing_folder_points_to_the_hubs_spelling(folders: list[Path], tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="a model on a hub is written hf://owner/name"):
        svc_dist.make_plan(recipe_data([folders[0], tmp_path / "acme" / "expert"]))
