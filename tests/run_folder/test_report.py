"""The one reader of ``merge_report.json``: what a merge wrote is read whole, and what is wrong is one error."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import svc_dist
from svc_dist.errors import DamagedInputError, OutputError
from svc_dist.run_folder.report import REPORT_FILE, MergeReport, read_report
from tests.support.checkpoints import recipe_data, write_llamas


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("merge")
    models = write_llamas(folder)
    svc_dist.merge(recipe_data(models, calibrate="svc"), folder / "out", executor="inline")
    return folder / "out"


def test_every_key_that_a_merge_writes_is_read(written: Path) -> None:
    report = read_report(str(written))
    stored = json.loads((written / REPORT_FILE).read_text())
    assert stored.keys() == vars(report).keys()
    assert report.settings.precision == "mixed"
    assert [tensor.name for tensor in report.tensors] == [tensor["name"] for tensor in stored["tensors"]]
    assert report.dispositions[report.tensors[0].disposition].kind in ("merged", "copied")


def no_hole(report: dict[str, Any]) -> None:
    report["ranges"][0]["start"] += 1


def unlisted(report: dict[str, Any]) -> None:
    report["tensors"][0]["disposition"] = 99


def words(report: dict[str, Any]) -> None:
    report["tensors"] = "abc"


def precision(report: dict[str, Any]) -> None:
    report["settings"]["precision"] = "flot64"


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (no_hole, "leave a hole at byte"),
        (unlisted, "refers to a disposition or shard that is not listed"),
        (words, "Expected `array`, got `str` - at `..tensors`"),
        (precision, "precision is 'flot64'"),
        (dict.clear, "missing required field"),
    ],
)
def test_a_report_that_contradicts_itself_is_one_error(
    written: Path, damage: Callable[[dict[str, Any]], None], said: str
) -> None:
    report = json.loads((written / REPORT_FILE).read_text())
    damage(report)
    with pytest.raises(DamagedInputError, match=f"here cannot be read: .*{said}"):
        MergeReport.parse(json.dumps(report).encode(), "here")


def test_an_output_without_a_report_holds_no_merge(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="holds no finished merge"):
        read_report(str(tmp_path))
