"""Plans of several documents: a later one is planned from the plan of an earlier one, and equals what is made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import svc_dist
from svc_dist.checkpoint.checkpoint import open_checkpoint
from svc_dist.errors import StorageError
from svc_dist.plan.documents import PlannedFiles, document_version
from svc_dist.plan.model import Plan
from svc_dist.storage.access import DEFAULT_ACCESS, Access
from svc_dist.storage.open import open_storage
from tests.support.checkpoints import write_llamas


@pytest.fixture
def models(tmp_path: Path) -> list[Path]:
    return write_llamas(tmp_path / "models")


def documents(models: list[Path], weight: float = 0.5) -> list[dict[str, Any]]:
    base, one, two = map(str, models)
    experts = [{"model": model, "parameters": {"weight": weight}} for model in (one, two)]
    last = [{"model": model, "parameters": {"weight": 0.5}} for model in ("first", two)]
    return [
        {"name": "first", "merge_method": "task_arithmetic", "base_model": base, "models": experts},
        {"merge_method": "linear", "models": last, "dtype": "float32"},
    ]


def first_alone(models: list[Path]) -> dict[str, Any]:
    return {key: value for key, value in documents(models)[0].items() if key != "name"}


def test_a_later_document_is_planned_from_the_plan_of_an_earlier_one(models: list[Path]) -> None:
    first, last = svc_dist.make_plans(documents(models))
    (identity,) = last.models[0].files
    assert (last.models[0].location, identity.version) == ("document://first", f"document:{first.fingerprint}")
    assert identity.size == first.shards[0].size
    assert [tensor.name for tensor in last.tensors] == [tensor.name for tensor in first.tensors]
    assert [one["name"] for one in last.documents] == ["first"]
    assert first.recipe["name"] == "first"
    assert svc_dist.make_plan(documents(models)) == last
    assert Plan.from_json(last.to_json()) == last


def test_another_first_document_is_another_plan_of_the_last(models: list[Path]) -> None:
    fingerprints = {svc_dist.make_plan(documents(models, weight)).fingerprint for weight in (0.5, 0.5, 0.6)}
    assert len(fingerprints) == 2


def test_planned_files_are_those_that_are_made(models: list[Path], tmp_path: Path) -> None:
    recipe = {**first_alone(models), "dtype": "bfloat16", "max_shard_size": "8kB"}
    plan = svc_dist.make_plan(recipe)
    svc_dist.merge(recipe, tmp_path / "out", executor="inline", device="cpu")
    files = PlannedFiles("first", plan, DEFAULT_ACCESS)
    access = Access(models={"first": files})
    planned, made = open_checkpoint("document://first", access), open_checkpoint(str(tmp_path / "out"))
    assert planned.tensors == made.tensors
    assert planned.config == made.config
    assert {file.name: file.size for file in planned.files} == {file.name: file.size for file in made.files}
    assert {file.version for file in planned.files} == {document_version(plan)}
    storage = open_storage("document://first", access)
    for name in storage.names():
        if not name.endswith(".safetensors"):
            assert storage.read(name) == (tmp_path / "out" / name).read_bytes()


def test_planned_files_cannot_be_written_and_others_are_not_there(models: list[Path]) -> None:
    files = PlannedFiles("first", svc_dist.make_plan(first_alone(models)), DEFAULT_ACCESS)
    assert (files.folders(), files.names("sub"), files.stat("x"), files.get("x")) == ([], [], None, None)
    with pytest.raises(StorageError, match="document://first/x: the model will have no such file"):
        files.read("x")
    for change in (lambda: files.put("x", b""), lambda: files.delete("x")):
        with pytest.raises(StorageError, match="another document's model"):
            change()
    with pytest.raises(StorageError, match="document://first: made by another document of the recipe, and not kept"):
        open_storage("document://first")
