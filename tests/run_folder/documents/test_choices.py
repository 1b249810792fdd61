"""A merge that is resumed keeps what ``auto`` chose while its inputs are the same, and says what changed otherwise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import svc_dist
from svc_dist.errors import OtherMergeError
from svc_dist.methods.auto import choice as deciding
from svc_dist.methods.auto.table import Row
from svc_dist.plan.auto import sample
from svc_dist.run.session import MergeSummary
from svc_dist.run_folder.report import read_report
from tests.support.checkpoints import poke, recipe_data, write_llamas

ANOTHER = (Row("any", {"merge_method": "linear", "parameters": {}, "calibrate": {"method": "none"}}, "", ""),)


def merge(recipe: Any, output: Path) -> MergeSummary:
    return svc_dist.merge(recipe, output, executor="inline", device="cpu", slots=1)


@pytest.fixture
def models(tmp_path: Path) -> list[Path]:
    return write_llamas(tmp_path / "models")


def with_another_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deciding, "MERGE_METHODS", ANOTHER)


def stop_in_the_middle(recipe: Any, output: Path) -> None:
    class StoppedError(Exception):
        pass

    def stop(progress: Any) -> None:
        if progress.units_done:
            raise StoppedError

    with pytest.raises(StoppedError):
        svc_dist.merge(recipe, output, executor="inline", device="cpu", slots=1, on_progress=stop)


def documents(models: list[Path]) -> list[dict[str, Any]]:
    return [{"name": "first", **recipe_data(models, "auto")}, recipe_data(["first", *models[1:]], "linear")]


@pytest.mark.parametrize("several", [False, True])
def test_a_resumed_merge_keeps_the_recorded_choice(
    several: bool, models: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = documents(models) if several else recipe_data(models, "auto", max_shard_size="4kB")
    merge(recipe, tmp_path / "whole")
    stop_in_the_middle(recipe, tmp_path / "out")
    with_another_table(monkeypatch)
    monkeypatch.setattr(sample, "sampled_features", lambda *_: pytest.fail("sampled again"))
    merge(recipe, tmp_path / "out")
    for file in sorted((tmp_path / "whole").glob("*.safetensors")):
        assert (tmp_path / "out" / file.name).read_bytes() == file.read_bytes()


def test_a_complete_merge_keeps_the_recorded_choice(
    models: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe_data(models, "auto")
    merge(recipe, tmp_path / "out")
    with_another_table(monkeypatch)
    assert merge(recipe, tmp_path / "out").executor == "none"
    assert svc_dist.make_plan(recipe, tmp_path / "out", device="cpu").recipe["merge_method"] == "swudi"
    assert svc_dist.make_plan(recipe, device="cpu").recipe["merge_method"] == "linear"


def test_changed_inputs_are_named_and_so_is_another_choice(
    models: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe_data(models, "auto")
    merge(recipe, tmp_path / "out")
    with_another_table(monkeypatch)
    file = sorted(models[1].glob("*.safetensors"))[0]
    poke(file, "model.embed_tokens.weight", 0, 0.5)
    with pytest.raises(OtherMergeError) as caught:
        merge(recipe, tmp_path / "out")
    assert f"{models[1]}/{file.name}: was" in caught.value.message
    assert "recipe: merge_method: was swudi, is linear" in caught.value.message


def test_the_report_records_the_choice(models: list[Path], tmp_path: Path) -> None:
    recipe = recipe_data(models, "auto")
    merge(recipe, tmp_path / "out")
    report = read_report(str(tmp_path / "out"))
    assert report.auto == svc_dist.make_plan(recipe, device="cpu").auto
    assert report.recipe["merge_method"] == "swudi"
    card = (tmp_path / "out" / "README.md").read_text()
    assert "\nauto chose swudi (exp_time 300, rank_ratio 0.3), without calibration, for 2 full" in card
    assert "(swudi)" in card
    again = svc_dist.make_plan(str(tmp_path / "out" / "merge_report.json"), device="cpu")
    assert again.fingerprint == report.fingerprint
