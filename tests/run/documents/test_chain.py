"""Several documents as one run: stopped anywhere and started again, it ends with the same bytes."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import yaml

import svc_dist
from svc_dist.checks.clean import clean, look
from svc_dist.checks.status import read_status
from svc_dist.checks.verify import verify
from svc_dist.errors import ChangedInputError, DrainedError, LockedError, OutputError, VerificationError
from svc_dist.run.documents import chain
from svc_dist.run_folder.journal import Journal
from svc_dist.run_folder.output import Output
from svc_dist.run_folder.receipt import Receipt
from svc_dist.storage.local import LocalStorage
from tests.support.checkpoints import tree_state, write_llamas

Documents = list[dict[str, Any]]


class StoppedError(Exception):
    """What a merge ends with."""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_llamas(tmp_path_factory.mktemp("models"))


@pytest.fixture
def documents(models: list[Path]) -> Documents:
    """Three merges in a row; the last one reads both of the others."""
    return documents_of(models)


def documents_of(models: list[Path]) -> Documents:
    base, one, two = map(str, models)

    def experts(*names: str) -> list[dict[str, Any]]:
        return [{"model": name, "parameters": {"weight": 0.5}} for name in names]

    common = {"max_shard_size": "8kB", "dtype": "float32"}
    return [
        {"merge_method": "linear", "models": experts("first", "second"), **common},
        {"name": "second", "merge_method": "slerp", "base_model": "first", "models": experts(two)[:1], **common}
        | {"models": [{"model": two}], "parameters": {"t": 0.5}},
        {"name": "first", "merge_method": "task_arithmetic", "base_model": base, "models": experts(one, two), **common},
    ]


def merge(documents: Any, output: Path, **options: Any) -> Any:
    return svc_dist.merge(documents, output, executor="inline", device="cpu", slots=1, **options)


def weights(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*.safetensors"))}


@pytest.fixture(scope="module")
def expected(models: list[Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The bytes of the last model, merged one document after the other by hand."""
    documents, folder = documents_of(models), tmp_path_factory.mktemp("apart")
    first, second = ({k: v for k, v in one.items() if k != "name"} for one in (documents[2], documents[1]))
    folders = {name: str(folder / name) for name in ("first", "second")}
    merge(first, Path(folders["first"]))
    merge(second | {"base_model": folders["first"]}, Path(folders["second"]))
    experts = [one | {"model": folders[one["model"]]} for one in documents[0]["models"]]
    merge(documents[0] | {"models": experts}, folder / "last")
    return weights(folder / "last")


def test_the_result_is_that_of_one_merge_after_the_other(
    documents: Documents, expected: dict[str, bytes], tmp_path: Path
) -> None:
    summary = merge(documents, tmp_path / "out")
    assert weights(tmp_path / "out") == expected
    assert len(summary.documents) == 3
    assert summary.units == sum(one.units for one in summary.documents)
    assert not (tmp_path / "out" / ".svc_dist").exists()
    assert verify(str(tmp_path / "out"), deep=True).problems == []
    again = merge(documents, tmp_path / "out")
    assert again.units_resumed == summary.units
    report = json.loads((tmp_path / "out" / "merge_report.json").read_text())
    assert [one["name"] for one in report["documents"]] == ["first", "second"]


def test_the_report_beside_the_model_makes_it_again(
    documents: Documents, expected: dict[str, bytes], tmp_path: Path
) -> None:
    merge(documents, tmp_path / "out")
    merge(tmp_path / "out" / "merge_report.json", tmp_path / "again")
    assert weights(tmp_path / "again") == expected


def test_every_model_stays_where_all_documents_have_names(documents: Documents, tmp_path: Path) -> None:
    documents[0]["name"] = "last"
    merge(documents, tmp_path / "out")
    folders = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert folders == ["first", "last", "merge_outputs.json", "second"]
    assert read_status(str(tmp_path / "out")).state == "complete"
    assert verify(str(tmp_path / "out" / "second"), deep=True).problems == []
    before = tree_state(tmp_path / "out")
    merge(documents, tmp_path / "out")
    assert tree_state(tmp_path / "out") == before


def stopping(monkeypatch: pytest.MonkeyPatch, kind: type, method: str, calls: int) -> None:
    """Have the nth call of a method end the merge before it does anything."""
    real, count = getattr(kind, method), iter(range(1 << 30))

    def stopped(self: Any, *arguments: Any, **more: Any) -> Any:
        if next(count) >= calls:
            raise StoppedError
        return real(self, *arguments, **more)

    monkeypatch.setattr(kind, method, stopped)


@pytest.mark.parametrize(
    ("kind", "method"), [(Journal, "record"), (LocalStorage, "put"), (LocalStorage, "clear"), (Journal, "record_plan")]
)
def test_stopped_anywhere_a_run_ends_with_the_same_bytes(
    documents: Documents, expected: dict[str, bytes], tmp_path: Path, kind: type, method: str
) -> None:
    """Each start gets a few calls further than where the one before it stopped."""
    recorded: list[str] = []
    record = Journal.record

    def recording(self: Journal, receipt: Receipt) -> None:
        recorded.append(f"{receipt.fingerprint} {receipt.unit}")
        record(self, receipt)

    starts = 0
    while starts < 200:
        starts += 1
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Journal, "record", recording)
            stopping(patch, kind, method, 7 if method == "put" else 1)
            try:
                merge(documents, tmp_path / "out")
            except StoppedError:
                continue
            break
    assert starts > 1
    assert weights(tmp_path / "out") == expected
    assert not (tmp_path / "out" / ".svc_dist").exists()
    if method in ("clear", "record_plan"):
        assert len(recorded) == len(set(recorded)), "no unit ran twice"


def test_between_documents_a_run_shows_what_is_done_and_is_asked_to_stop(
    documents: Documents, expected: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, run = tmp_path / "out", chain.run_planned

    def asked(*arguments: Any) -> Any:
        summary = run(*arguments)
        os.kill(os.getpid(), signal.SIGTERM)
        return summary

    monkeypatch.setattr(chain, "run_planned", asked)
    with pytest.raises(DrainedError, match="the document 'second' is not merged yet"):
        merge(documents, out)
    status = read_status(str(out))
    first = status.documents
    assert first["the document 'first'"].state == "complete"
    assert (first["the document 'second'"].state, first["the document 'second'"].done) == ("stopped", 0)
    assert status.state == "stopped"
    assert 0 < status.done < status.units
    assert "the document 'first': complete" in status.text()
    assert [path.name for path in (out / ".svc_dist" / "documents").iterdir() if path.is_dir()] == ["first"]
    with pytest.raises(DrainedError):
        merge(documents, out)
    monkeypatch.undo()
    merge(documents, out)
    assert weights(out) == expected


def test_models_that_no_document_needs_any_more_are_removed(
    documents: Documents, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    documents[0]["models"][0]["model"] = documents[2]["models"][0]["model"]
    seen: list[set[str]] = []
    run = chain.run_planned

    def looking(*arguments: Any) -> Any:
        seen.append({path.name for path in (tmp_path / "out" / ".svc_dist" / "documents").glob("*/")})
        return run(*arguments)

    monkeypatch.setattr(chain, "run_planned", looking)
    merge(documents, tmp_path / "out")
    assert seen[2] == {"second"}, "the last document reads the second one's model only"


def stop_between(documents: Documents, out: Path) -> None:
    """Merge the first document, and end."""
    with pytest.MonkeyPatch.context() as patch:
        stopping(patch, Journal, "record_plan", 1)
        with pytest.raises(StoppedError):
            merge(documents, out)


def test_a_change_of_an_earlier_document_is_noticed(documents: Documents, tmp_path: Path) -> None:
    out = tmp_path / "out"
    stop_between(documents, out)
    documents[2]["models"][0]["parameters"]["weight"] = 0.6
    with pytest.raises(ChangedInputError, match=r"'first':\n.*models\[0\]: parameters: weight: was 0.5, is 0.6"):
        merge(documents, out)
    merge(documents, out, restart=True)
    documents[2]["models"][0]["parameters"]["weight"] = 0.7
    with pytest.raises(ChangedInputError, match="complete merge of something else"):
        merge(documents, out)


def test_a_changed_model_of_an_earlier_document_is_not_read(documents: Documents, tmp_path: Path) -> None:
    out = tmp_path / "out"
    documents[0]["name"] = "last"
    with pytest.MonkeyPatch.context() as patch:
        stopping(patch, Journal, "record_plan", 2)
        with pytest.raises(StoppedError):
            merge(documents, out)
    (out / "first" / "config.json").write_text("{}")
    with pytest.raises(ChangedInputError, match=r"first/config\.json changed since the document 'first' was merged"):
        merge(documents, out)


def test_other_runs_do_not_mix_with_one_of_several_documents(documents: Documents, tmp_path: Path) -> None:
    out = tmp_path / "out"
    stop_between(documents, out)
    alone = {key: value for key, value in documents[2].items() if key != "name"}
    with pytest.raises(ChangedInputError, match="had several documents, has one"):
        merge(alone, out)
    with pytest.raises(ChangedInputError, match="documents: were first, second"):
        merge(documents[1:], out)
    with Output(str(out)).lock(), pytest.raises(LockedError):
        merge(documents, out)
    merge(alone, out, restart=True)
    assert not (out / ".svc_dist").exists()


def test_clean_removes_all_that_an_abandoned_run_left(documents: Documents, tmp_path: Path) -> None:
    out = tmp_path / "out"
    stop_between(documents, out)
    (out / "notes.txt").write_text("mine")
    seen = look(Output(str(out)))
    assert "a merge that was not finished of 3 documents" in seen.text()
    assert 0 < seen.units_done < seen.units
    clean(Output(str(out)))
    assert [path.name for path in out.rglob("*") if path.is_file()] == ["notes.txt"]


def test_what_is_wrong_is_said_before_anything_is_written(documents: Documents, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "model.safetensors").write_bytes(b"mine")
    with pytest.raises(OutputError, match=r"already holds model\.safetensors"):
        merge(documents, out)
    assert [path.name for path in out.rglob("*")] == ["model.safetensors"]
    with pytest.raises(OutputError, match="lie inside one another"):
        merge(documents, Path(documents[2]["base_model"]) / "out")


def test_recipe_files_with_several_documents(documents: Documents, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(yaml.safe_dump_all(documents))
    merge(tmp_path / "r.yaml", tmp_path / "out")
    assert (tmp_path / "out" / "config.json").exists()


def test_a_shard_that_a_complete_run_lost_is_named(documents: Documents, tmp_path: Path) -> None:
    for document, name in zip(documents, ("last", "second", "first"), strict=True):
        document["name"] = name
    merge(documents, tmp_path / "out")
    shard = next((tmp_path / "out" / "first").glob("*.safetensors"))
    shard.unlink()
    with pytest.raises(VerificationError, match=f"first was complete, but {shard.name} is missing"):
        merge(documents, tmp_path / "out")
