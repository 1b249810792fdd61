"""A merged model's status, checks, comparison and report from Python."""

from __future__ import annotations

from pathlib import Path

import pytest

import svc_dist
from svc_dist.errors import OutputError, RecipeError
from tests.support.checkpoints import poke, recipe_data, write_llamas


@pytest.fixture(scope="module")
def merged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("outputs")
    recipe = recipe_data(write_llamas(folder / "models"), calibrate="svc")
    svc_dist.merge(recipe, folder / "merged", executor="inline")
    return folder / "merged"


def test_paths_and_texts_name_the_same_merge(merged: Path) -> None:
    assert svc_dist.status(merged) == svc_dist.status(str(merged))
    assert svc_dist.status(merged).state == "complete"
    assert svc_dist.read_report(merged).fingerprint == svc_dist.read_report(f"{merged}/").fingerprint


def test_verify_tells_a_sound_model_from_a_changed_one(merged: Path, tmp_path: Path) -> None:
    assert svc_dist.verify(merged, deep=True).ok
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in merged.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    poke(next(copy.glob("*.safetensors")), "lm_head.weight", 0, 7.0)
    assert svc_dist.verify(copy).ok
    assert "not those written" in svc_dist.verify(copy, deep=True).problems[0]
    difference = svc_dist.diff(merged, copy)
    assert not difference.same
    assert [one.name for one in difference.worst()] == ["lm_head.weight"]


def test_the_page_is_written_beside_the_model_or_where_it_is_asked_for(merged: Path, tmp_path: Path) -> None:
    assert svc_dist.write_report(merged) == (f"{merged}/merge_report.html",)
    assert svc_dist.write_report(merged, tmp_path / "page.html") == (str(tmp_path / "page.html"),)
    page = (tmp_path / "page.html").read_text()
    assert page == (merged / "merge_report.html").read_text()
    assert "Merge merged" in page


def test_a_page_of_several_results_is_beside_each(tmp_path: Path) -> None:
    data = recipe_data(write_llamas(tmp_path / "models"), outputs=[{"path": "a"}, {"path": "b", "lambda": 0.5}])
    svc_dist.merge(data, tmp_path / "out", executor="inline")
    pages = svc_dist.write_report(tmp_path / "out")
    assert pages == tuple(f"{tmp_path}/out/{name}/merge_report.html" for name in "ab")
    with pytest.raises(RecipeError, match="has 2 results, but a page shows one"):
        svc_dist.write_report(tmp_path / "out", tmp_path / "page.html")
    svc_dist.write_report(tmp_path / "out" / "a", tmp_path / "page.html", compare=tmp_path / "out" / "b")
    assert "<h2>Compared with b</h2>" in (tmp_path / "page.html").read_text()
    with pytest.raises(RecipeError, match="has 2 results, but a page compares with one"):
        svc_dist.write_report(tmp_path / "out" / "a", tmp_path / "page.html", compare=tmp_path / "out")


def test_a_folder_without_a_merge_is_named(tmp_path: Path) -> None:
    for function in (svc_dist.status, svc_dist.read_report, svc_dist.write_report):
        with pytest.raises(OutputError, match=str(tmp_path)):
            function(tmp_path)
    assert "the merge is not complete" in svc_dist.verify(tmp_path).problems[0]


def test_what_functions_return_prints_as_one_line(merged: Path) -> None:
    again = svc_dist.merge(recipe_data(sorted((merged.parent / "models").iterdir()), calibrate="svc"), merged)
    shown = [
        repr(one) for one in (again, svc_dist.status(merged), svc_dist.verify(merged), svc_dist.diff(merged, merged))
    ]
    assert shown[0].startswith(f"<MergeSummary {merged}: 21 tensors in 1 shard, 14.50 kB, 1 unit, 1 of them by earlier")
    assert shown[1].startswith(f"<Status {merged}: complete, 1 unit, 14.50 kB")
    assert shown[2].startswith("<Verification: ok; ")
    assert shown[3] == f"<Difference of {merged} and {merged}: 21 identical>"
    broken = repr(svc_dist.verify(merged.parent))
    assert broken.startswith(f"<Verification: 1 problem: {merged.parent} has no ")
    assert "\n" not in "".join([*shown, broken])
