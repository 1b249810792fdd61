"""The stages of a run in its folder: what is recorded of them, and the files that they have made."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

import svc_dist
from svc_dist.errors import ChangedInputError, DamagedInputError, StorageError
from svc_dist.plan.settings import Settings
from svc_dist.plan.stages import plan_stages, stage_version
from svc_dist.recipe.load import load_stages
from svc_dist.run_folder.output import Output
from svc_dist.run_folder.stages.records import (
    StageRecord,
    inner_outputs,
    made_stage,
    pending,
    read_stages,
    remove_unneeded,
    stage_output,
    write_stages,
)
from svc_dist.storage.access import Access
from svc_dist.storage.open import open_storage
from svc_dist.storage.reading import ByteRange, Source
from tests.support.checkpoints import write_llamas


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    base, one, _ = map(str, write_llamas(tmp_path_factory.mktemp("models")))
    expert = {"model": one, "parameters": {"weight": 0.5}}
    first = {"name": "a/first", "merge_method": "task_arithmetic", "base_model": base, "models": [expert]}
    last = [{"model": "a/first", "parameters": {"weight": 1.0}}, expert]
    return [first, {"merge_method": "linear", "models": last}]


def test_what_is_left_to_do_and_what_is_not_needed(documents: list[dict[str, Any]], tmp_path: Path) -> None:
    whole = Output(str(tmp_path / "out"))
    assert read_stages(whole) is None
    stages = load_stages(documents)
    plans = plan_stages(stages, Settings())
    records = tuple(map(StageRecord.of, stages, plans))
    write_stages(whole, records)
    assert read_stages(whole) == records
    assert pending(whole, records) == list(records)
    inner = stage_output(whole, "a/first", False)
    assert inner.location == f"{whole.location}/.svc_dist/stages/a%2Ffirst"
    first = {key: value for key, value in documents[0].items() if key != "name"}
    svc_dist.merge(first, inner.location, executor="inline", device="cpu")
    assert pending(whole, records) == list(records), "the model of another plan is not this stage's"
    assert [one.location for one in inner_outputs(whole)] == [inner.location]
    remove_unneeded(whole, records, records)
    assert Path(inner.location).is_dir()
    remove_unneeded(whole, records, [])
    assert not Path(inner.location).exists()
    (tmp_path / "out" / ".svc_dist" / "stages.json").write_text("[{}]")
    with pytest.raises(DamagedInputError, match=r"stages\.json cannot be read"):
        read_stages(whole)


def test_files_of_a_model_that_a_stage_has_made(documents: list[dict[str, Any]], tmp_path: Path) -> None:
    whole = Output(str(tmp_path / "out"))
    first = {key: value for key, value in documents[0].items() if key != "name"}
    (stage,) = load_stages(first)
    (plan,) = plan_stages([stage], Settings())
    record = StageRecord.of(stage, plan)
    svc_dist.merge(first, whole.location, executor="inline", device="cpu")
    made = made_stage(whole, record, plan)
    access = Access(stages={"a/first": made})
    storage = open_storage("stage://a/first", access)
    identity = storage.stat("model.safetensors")
    assert identity is not None
    assert identity.version == stage_version(plan)
    source = Source("stage://a/first", [identity], access)
    part = ByteRange("model.safetensors", 0, 8)
    with source.map([part]) as mapped:
        assert bytes(mapped.view(part)) == storage.read_pinned(identity, 0, 8)
    storage.require_unchanged(identity)
    assert storage.get("config.json") == storage.read("config.json")
    with pytest.raises(StorageError, match="another document's model"):
        storage.put("x", b"")
    assert made_stage(whole, record, plan) == made
    os.utime(tmp_path / "out" / "model.safetensors", ns=(0, 0))
    with pytest.raises(ChangedInputError), source.map([part]):
        pass
    with pytest.raises(ChangedInputError, match=r"model\.safetensors changed since"):
        made_stage(whole, record, plan)
    (tmp_path / "out" / "model.safetensors").unlink()
    with pytest.raises(ChangedInputError, match=r"model\.safetensors is gone"):
        made_stage(whole, record, plan)
