"""Removing an abandoned run: what it left and nothing else, and never a run that is alive or complete."""

from __future__ import annotations

from pathlib import Path

import pytest

import svc_dist
from svc_dist.checks.clean import clean, look
from svc_dist.errors import LockedError, OutputError
from svc_dist.run_folder.output import Output
from tests.support.checkpoints import tree_state, write_llamas, write_recipe
from tests.support.stopped import stop_merge


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    return write_recipe(tmp_path / "r.yaml", write_llamas(tmp_path / "models"), max_shard_size="1kB")


def test_only_what_the_run_made_is_removed(recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    stop_merge(recipe, out, 3)
    (out / "notes.txt").write_text("mine")
    before = tree_state(out)
    seen = look(Output(str(out)))
    assert tree_state(out) == before, "a look changes nothing"
    assert seen.units_done == 3
    cleaned = clean(Output(str(out)))
    assert cleaned == seen
    assert [path.name for path in out.rglob("*") if path.is_file()] == ["notes.txt"]


def test_a_run_that_is_alive_is_left_alone(recipe: Path, tmp_path: Path) -> None:
    out = Output(str(tmp_path / "out"))
    stop_merge(recipe, tmp_path / "out", 1)
    with out.lock(), pytest.raises(LockedError):
        clean(Output(str(tmp_path / "out")))
    assert out.journal.is_there()


def test_a_complete_merge_and_a_folder_without_a_run_are_refused(recipe: Path, tmp_path: Path) -> None:
    svc_dist.merge(recipe, tmp_path / "out", executor="inline", device="cpu")
    before = tree_state(tmp_path / "out")
    for call in (look, clean):
        with pytest.raises(OutputError, match="holds a complete merge"):
            call(Output(str(tmp_path / "out")))
        with pytest.raises(OutputError, match="holds no merge"):
            call(Output(str(tmp_path / "models")))
    assert tree_state(tmp_path / "out") == before
