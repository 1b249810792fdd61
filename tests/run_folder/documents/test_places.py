"""Dates and variables in paths have the values of the day on which a run was created, however late it is resumed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import svc_dist
from svc_dist.errors import DrainedError, RecipeError
from svc_dist.recipe import paths
from svc_dist.run_folder.documents.places import dated
from svc_dist.storage.access import DEFAULT_ACCESS
from tests.support.checkpoints import tree_state, write_llamas


@pytest.fixture
def day(monkeypatch: pytest.MonkeyPatch) -> Any:
    def set_day(text: str) -> None:
        monkeypatch.setattr(paths, "today", lambda: text)

    set_day("2026-11-28")
    return set_day


def recipe(folder: Path) -> dict[str, Any]:
    base, *experts = write_llamas(folder / "2026-11-28")
    return {
        "base_model": str(folder / "{date}" / base.name),
        "models": [{"model": str(folder / "{date}" / expert.name)} for expert in experts],
        "merge_method": "linear",
    }


def started(given: dict[str, Any], output: Path) -> None:
    """A merge that is stopped before its first unit."""
    with pytest.raises(DrainedError):
        svc_dist.merge(given, output, executor="inline", max_runtime=0)


def test_a_merge_of_yesterday_goes_on_with_its_models_in_its_folder(tmp_path: Path, day: Any) -> None:
    given, output = recipe(tmp_path), tmp_path / "nightly" / "{date}"
    started(given, output)
    day("2026-11-29")
    done = svc_dist.merge(given, output, executor="inline")
    assert done.output == str(tmp_path / "nightly" / "2026-11-28")
    assert (tmp_path / "nightly" / "2026-11-28" / "model.safetensors.index.json").exists()
    with pytest.raises(RecipeError, match="2026-11-29"):  # the next merge is of today, whose models are not there
        svc_dist.merge(given, output, executor="inline")
    assert sorted(path.name for path in (tmp_path / "nightly").iterdir()) == ["2026-11-28"]


def test_a_fixed_output_keeps_the_date_of_its_models(tmp_path: Path, day: Any) -> None:
    given, output = recipe(tmp_path), tmp_path / "out"
    started(given, output)
    day("2026-11-29")
    assert svc_dist.make_plan(given, output).models[0].location.endswith("2026-11-28/base")
    svc_dist.merge(given, output, executor="inline")
    before = tree_state(output)
    day("2026-11-28")
    svc_dist.merge(given, output, executor="inline")
    assert tree_state(output) == before


def test_variables_keep_the_value_with_which_a_run_was_created(
    tmp_path: Path, day: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, output = recipe(tmp_path), tmp_path / "${WHERE}"
    given["base_model"] = given["base_model"].replace("{date}", "${DAY}")
    monkeypatch.setenv("DAY", "2026-11-28")
    monkeypatch.setenv("WHERE", "out")
    started(given, output)
    monkeypatch.setenv("DAY", "elsewhere")
    assert svc_dist.merge(given, output, executor="inline").output == str(tmp_path / "out")


def test_a_restart_is_of_today(tmp_path: Path, day: Any) -> None:
    given, output = recipe(tmp_path), tmp_path / "run-{date}"
    started(given, output)
    day("2026-11-29")
    (tmp_path / "2026-11-28").rename(tmp_path / "2026-11-29")
    done = svc_dist.merge(given, output, executor="inline", restart=True)
    assert done.output == str(tmp_path / "run-2026-11-29")


def test_places(tmp_path: Path, day: Any) -> None:
    assert dated("plain", DEFAULT_ACCESS) == "plain"
    assert dated(str(tmp_path / "a-{date}/b-{date}"), DEFAULT_ACCESS) == str(tmp_path / "a-2026-11-28/b-2026-11-28")
    with pytest.raises(RecipeError, match="OUTPUT: the environment variable NOT_THERE is not set"):
        dated("${NOT_THERE}/x", DEFAULT_ACCESS)
    with pytest.raises(RecipeError, match="credential"):
        dated("${AWS_SECRET_ACCESS_KEY}/x", DEFAULT_ACCESS)
