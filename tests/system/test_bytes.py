"""The same bytes, whatever the executor, the number of workers or the order; done is done."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import svc_dist
from svc_dist.errors import ChangedInputError, ExitCode, LockedError
from svc_dist.run_folder.lock import LocalLock
from tests.support.checkpoints import write_llamas, write_recipe
from tests.support.command import run, shard_hashes

SIZES = {"layers": 6, "hidden": 64, "intermediate": 128, "vocabulary": 500}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    models = write_llamas(folder, experts=3, **SIZES)
    return write_recipe(folder / "recipe.yaml", models, calibrate="svc", max_shard_size="60KB")


@pytest.fixture(scope="module")
def expected(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    output = tmp_path_factory.mktemp("expected") / "out"
    report = svc_dist.merge(recipe, output, executor="inline", slots=1)
    assert report.units >= 10
    return shard_hashes(output)


def test_two_slots_inline(recipe: Path, expected: dict[str, str], tmp_path: Path) -> None:
    svc_dist.merge(recipe, tmp_path / "out", executor="inline", slots=2)
    assert shard_hashes(tmp_path / "out") == expected


@pytest.mark.usefixtures("at_ray_home")
@pytest.mark.parametrize("slots", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_ray(recipe: Path, expected: dict[str, str], tmp_path: Path, slots: int) -> None:
    report = svc_dist.merge(recipe, tmp_path / "out", executor="ray", slots=slots)
    assert report.executor == "ray"
    assert shard_hashes(tmp_path / "out") == expected


def test_the_same_command_again_finds_it_done_and_touches_nothing(
    recipe: Path, expected: dict[str, str], tmp_path: Path
) -> None:
    svc_dist.merge(recipe, tmp_path / "out")
    before = {file.name: file.stat().st_mtime_ns for file in (tmp_path / "out").iterdir()}
    report = svc_dist.merge(recipe, tmp_path / "out")
    assert report.units_resumed == report.units
    assert {file.name: file.stat().st_mtime_ns for file in (tmp_path / "out").iterdir()} == before


def test_another_recipe_on_a_finished_output_is_refused_and_restart_replaces_it(
    recipe: Path, expected: dict[str, str], tmp_path: Path
) -> None:
    other = tmp_path / "other.yaml"
    other.write_text(recipe.read_text().replace("task_arithmetic", "linear"))
    svc_dist.merge(other, tmp_path / "out")
    (tmp_path / "out" / "notes.txt").write_text("mine")
    with pytest.raises(ChangedInputError, match="something else"):
        svc_dist.merge(recipe, tmp_path / "out")
    svc_dist.merge(recipe, tmp_path / "out", restart=True)
    assert shard_hashes(tmp_path / "out") == expected
    assert (tmp_path / "out" / "notes.txt").read_text() == "mine"


def test_a_live_run_is_left_alone(recipe: Path, tmp_path: Path) -> None:
    with LocalLock(tmp_path / "out" / ".svc_dist" / "lock"):
        with pytest.raises(LockedError):
            svc_dist.merge(recipe, tmp_path / "out")
        refused = run("merge", recipe, tmp_path / "out", home=tmp_path, expect=ExitCode.LOCKED)
        assert (tmp_path / "out" / ".svc_dist" / "lock").exists(), "it had not planned yet, but it is its folder"
    assert "another live run" in refused.err


def test_status_and_json_of_a_finished_merge(recipe: Path, tmp_path: Path) -> None:
    done = run("merge", recipe, tmp_path / "out", "--log-format", "json", home=tmp_path)
    lines = [json.loads(line) for line in done.err.splitlines()]
    assert lines[-1]["message"] == "done"
    assert lines[-1]["units"] == lines[-1]["units_resumed"] + len(list((tmp_path / "out").glob("model-*")))
    assert "complete" in run("status", tmp_path / "out", home=tmp_path).out
    state = json.loads(run("status", tmp_path / "out", "--json", home=tmp_path).out)
    assert state["state"] == "complete"
