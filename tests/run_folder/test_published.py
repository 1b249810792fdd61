"""A finished merge is known by its report and its indexes: all of them, or it is not finished."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import svc_dist
from svc_dist.run_folder.output import Output
from svc_dist.run_folder.published import completed, own_files, recorded, recorded_settings, result_files
from tests.support.checkpoints import INDEX, recipe_data, write_llamas

TWO = [{"path": "half", "lambda": 0.5}, {"path": "whole"}]


@pytest.fixture
def merge(tmp_path: Path) -> Any:
    models = write_llamas(tmp_path / "models")

    def merge(**keys: Any) -> tuple[svc_dist.Plan, Output]:
        recipe = recipe_data(models, **keys)
        svc_dist.merge(recipe, tmp_path / "out", executor="inline", device="cpu", precision="fast")
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
