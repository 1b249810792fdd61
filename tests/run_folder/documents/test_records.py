"""The documents of a run in its folder: what is recorded of them, and the files that they have made."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

import svc_dist
from svc_dist.errors import ChangedInputError, DamagedInputError, StorageError
from svc_dist.plan.documents import document_version, plan_documents
from svc_dist.plan.settings import Settings
from svc_dist.recipe.load import load_documents
from svc_dist.run_folder.documents.records import (
    DocumentRecord,
    document_output,
    inner_outputs,
    made_model,
    pending,
    record_documents,
    recorded_documents,
    remove_unneeded,
)
from svc_dist.run_folder.output import Output
from svc_dist.storage.access import Access
from svc_dist.storage.open import open_storage
from svc_dist.storage.reading import ByteRange, Source
from tests.support.checkpoints import write_llamas


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    base, one, _ = map(str, write_llamas(tmp_path_factory.mktemp("models")))
    expert = {"model": one, "parameters": {"weight": 0.5}}
    first = {"name": "a/first", "merge_method": "task_arithmetic", "base_model": base, "models": [expert]}
    last = [{"model": "a/first", "parameters": {"weight": 1.0}}, expert]
    return [first, {"merge_method": "linear", "models": last}]


def test_what_is_left_to_do_and_what_is_not_needed(recipe: list[dict[str, Any]], tmp_path: Path) -> None:
    whole = Output(str(tmp_path / "out"))
    assert recorded_documents(whole) is None
    documents = load_documents(recipe)
    plans = plan_documents(documents, Settings())
    records = tuple(map(DocumentRecord.of, documents, plans))
    record_documents(whole, records)
    assert recorded_documents(whole) == records
    assert pending(whole, records) == list(records)
    inner = document_output(whole, "a/first", False)
    assert inner.location == f"{whole.location}/.svc_dist/documents/a%2Ffirst"
    first = {key: value for key, value in recipe[0].items() if key != "name"}
    svc_dist.merge(first, inner.location, executor="inline", device="cpu")
    assert pending(whole, records) == list(records), "the model of another plan is not this document's"
    assert [one.location for one in inner_outputs(whole)] == [inner.location]
    remove_unneeded(whole, records, records)
    assert Path(inner.location).is_dir()
    remove_unneeded(whole, records, [])
    assert not Path(inner.location).exists()
    (tmp_path / "out" / ".svc_dist" / "documents.json").write_text("[{}]")
    with pytest.raises(DamagedInputError, match=r"documents\.json cannot be read"):
        recorded_documents(whole)


def test_files_of_the_model_of_a_merged_document(recipe: list[dict[str, Any]], tmp_path: Path) -> None:
    whole = Output(str(tmp_path / "out"))
    first = {key: value for key, value in recipe[0].items() if key != "name"}
    (document,) = load_documents(first)
    (plan,) = plan_documents([document], Settings())
    record = DocumentRecord.of(document, plan)
    svc_dist.merge(first, whole.location, executor="inline", device="cpu")
    made = made_model(whole, record, plan)
    access = Access(models={"a/first": made})
    storage = open_storage("document://a/first", access)
    identity = storage.stat("model.safetensors")
    assert identity is not None
    assert identity.version == document_version(plan)
    source = Source("document://a/first", [identity], access)
    part = ByteRange("model.safetensors", 0, 8)
    with source.map([part]) as mapped:
        assert bytes(mapped.view(part)) == storage.read_pinned(identity, 0, 8)
    storage.require_unchanged(identity)
    assert storage.get("config.json") == storage.read("config.json")
    with pytest.raises(StorageError, match="another document's model"):
        storage.put("x", b"")
    assert made_model(whole, record, plan) == made
    os.utime(tmp_path / "out" / "model.safetensors", ns=(0, 0))
    with pytest.raises(ChangedInputError), source.map([part]):
        pass
    with pytest.raises(ChangedInputError, match=r"model\.safetensors changed since"):
        made_model(whole, record, plan)
    (tmp_path / "out" / "model.safetensors").unlink()
    with pytest.raises(ChangedInputError, match=r"model\.safetensors is gone"):
        made_model(whole, record, plan)
