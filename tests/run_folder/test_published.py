"""A finished merge is known by its report and its indexes: all of them, or it is not finished."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import svc_dist
from svc_dist.errors import VerificationError
from svc_dist.run_folder.output import Output
from svc_dist.run_folder.published import completed, own_files, recorded, recorded_settings, result_files
from tests.support.checkpoints import INDEX, recipe_data, write_llamas

TWO = [{"path": "half", "lambda": 0.5}, {"path": "whole"}]


@pytest.fixture
def merge(tmp_path: Path) -> Any:
    models = write_llamas(tmp_path / "models")

    def merge(restart: bool = False, **keys: Any) -> tuple[svc_dist.Plan, Output]:
        recipe = recipe_data(models, **keys)
        svc_dist.merge(recipe, tmp_path / "out", executor="inline", device="cpu", precision="fast", restart=restart)
        plan = svc_dist.make_plan(recipe, device="cpu", precision="fast")
        return plan, Output(str(tmp_path / "out"))

    return merge


@pytest.mark.parametrize("keys", [{}, {"outputs": TWO}], ids=["one result", "two results"])
def test_every_file_of_a_merge_is_known_from_its_plan(merge: Any, keys: dict[str, Any]) -> None:
    plan, output = merge(**keys)
    assert sorted(own_files(plan)) == output.storage.names(recursive=True)
    finished = completed(output)
    assert finished is not None
    assert finished.fingerprint == plan.fingerprint
    assert finished == recorded(output)
    settings = recorded_settings(output)
    assert settings is not None
    assert settings.precision == "fast"


@pytest.mark.parametrize(
    ("keys", "index"), [({}, INDEX), ({"outputs": TWO}, f"whole/{INDEX}")], ids=["one result", "two results"]
)
def test_without_one_of_its_indexes_a_merge_is_not_finished(merge: Any, keys: dict[str, Any], index: str) -> None:
    _, output = merge(**keys)
    output.storage.delete(index)
    assert completed(output) is None
    assert recorded(output) is not None


@pytest.mark.parametrize(("keys", "folder"), [({}, ""), ({"outputs": TWO}, "half/")], ids=["one result", "two results"])
def test_a_complete_merge_whose_shard_is_cut_short_or_gone_is_not_said_to_be_verified(
    merge: Any, keys: dict[str, Any], folder: str
) -> None:
    plan, output = merge(**keys)
    file = f"{folder}model.safetensors"
    output.storage.put(file, output.storage.read(file)[:-1])
    with pytest.raises(VerificationError, match=f"{file} has {plan.shards[0].size - 1:,} bytes, not "):
        merge(**keys)
    output.storage.delete(file)
    with pytest.raises(VerificationError, match=f"was complete, but {file} is missing"):
        merge(**keys)
    merge(**keys, restart=True)
    assert merge(**keys)[1].storage.stat(file).size == plan.shards[0].size


def test_a_report_that_cannot_be_read_and_an_empty_folder_are_no_merge(merge: Any, tmp_path: Path) -> None:
    _, output = merge()
    output.storage.put("merge_report.json", b"{}")
    assert completed(output) is None
    nothing = Output(str(tmp_path / "empty"))
    assert (completed(nothing), recorded_settings(nothing)) == (None, None)


def test_names_of_a_result_are_relative_to_its_folder(merge: Any) -> None:
    plan, _ = merge(outputs=TWO)
    names = result_files(plan)
    assert INDEX in names
    assert all(f"{folder}/{name}" in own_files(plan) for folder in ("half", "whole") for name in names)
