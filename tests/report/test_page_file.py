"""Where a page goes: beside the model on any storage, and never over the page of another merge or another file."""

from __future__ import annotations

import uuid
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

import svc_dist
from svc_dist.cli.app import app
from svc_dist.errors import OutputError, RecipeError
from svc_dist.report.page import render
from svc_dist.report.page_file import PAGE_FILE, PageFile
from svc_dist.run_folder.report import MergeReport, ReportedRange
from svc_dist.storage.open import open_storage
from tests.report.test_diagnosis import report
from tests.support.checkpoints import recipe_data, write_llamas


def merge_report(fingerprint: str) -> MergeReport:
    return replace(report(), fingerprint=fingerprint, shards=(), ranges=()) if not fingerprint else _merged(fingerprint)


def _merged(fingerprint: str) -> MergeReport:
    made = replace(report(), fingerprint=fingerprint)
    object.__setattr__(made, "ranges", (ReportedRange("u", 0, 0, 1, ""),))
    return made


@pytest.fixture(params=["disk", "memory"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path) if request.param == "disk" else f"memory://{uuid.uuid4().hex}"


def put(folder: str, made: MergeReport) -> None:
    file = PageFile(folder, None)
    file.require_own(made)
    file.write(render(made, "a title"))


def test_a_page_is_beside_its_model_and_may_be_written_again(folder: str) -> None:
    for _ in range(2):
        put(folder, merge_report("f1"))
    assert b"a title" in (open_storage(folder).get(PAGE_FILE) or b"")


@pytest.mark.parametrize(("made", "whose"), [("f2", "the page of another merge"), ("", "the page of another merge")])
def test_the_page_of_another_merge_stays(folder: str, made: str, whose: str) -> None:
    put(folder, merge_report("f1"))
    before = open_storage(folder).get(PAGE_FILE)
    with pytest.raises(OutputError, match=f"{PAGE_FILE} is {whose}, which stays as it is"):
        put(folder, merge_report(made))
    assert open_storage(folder).get(PAGE_FILE) == before


def test_an_inspection_replaces_an_inspection_and_a_merge_does_not(folder: str) -> None:
    for _ in range(2):
        put(folder, merge_report(""))
    with pytest.raises(OutputError, match="is the page of an inspection"):
        put(folder, merge_report("f1"))


def test_a_file_that_is_no_page_stays(tmp_path: Path) -> None:
    mine = tmp_path / "mine.html"
    mine.write_text("<p>mine</p>")
    with pytest.raises(OutputError, match="a file that is no page of svc_dist"):
        PageFile(None, mine).require_own(merge_report("f1"))
    assert mine.read_text() == "<p>mine</p>"


def test_a_device_is_not_replaced_by_a_page(tmp_path: Path) -> None:
    (tmp_path / "null").symlink_to("/dev/null")
    with pytest.raises(OutputError, match="device"):
        PageFile(None, tmp_path / "null")


def test_the_command_writes_beside_each_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models = write_llamas(tmp_path / "models")
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    svc_dist.merge(recipe_data(models), tmp_path / "one", executor="inline")
    results = [{"path": "a"}, {"path": "b", "parameters": {"lambda": 0.5}}]
    svc_dist.merge(recipe_data(models, outputs=results), tmp_path / "two", executor="inline")
    for output in ("one", "two"):
        done = CliRunner().invoke(app, ["report", str(tmp_path / output)])
        assert done.exit_code == 0, done.exception
    assert sorted(str(page.relative_to(tmp_path)) for page in tmp_path.rglob("*.html")) == [
        f"one/{PAGE_FILE}", f"two/a/{PAGE_FILE}", f"two/b/{PAGE_FILE}"
    ]  # fmt: skip
    done = CliRunner().invoke(app, ["report", str(tmp_path / "two"), "--html", str(tmp_path / "x.html")])
    assert isinstance(done.exception, RecipeError)
    assert "has 2 results" in str(done.exception)
    done = CliRunner().invoke(app, ["report", str(tmp_path / "one"), "--html", str(tmp_path / "two" / "a" / PAGE_FILE)])
    assert isinstance(done.exception, OutputError)
