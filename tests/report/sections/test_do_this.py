"""What to do, with keys that make a recipe which can be planned."""

from __future__ import annotations

from pathlib import Path

import yaml

import svc_dist
from svc_dist.report.diagnosis import Diagnosis
from svc_dist.report.sections.do_this import do_this
from svc_dist.run_folder.report import read_report
from tests.report.test_similarity import of
from tests.support.checkpoints import recipe_data, write_llamas


def test_without_evidence_there_is_no_section() -> None:
    assert do_this(Diagnosis(of([1.0, 0.0]).report)) == ""


def test_the_keys_of_a_page_make_a_recipe_that_can_be_planned(tmp_path: Path) -> None:
    data = recipe_data(write_llamas(tmp_path / "models"), calibrate="svc")
    for entry in data["models"]:
        entry["parameters"] = {"weight": 0.01}
    svc_dist.merge(data, tmp_path / "out", executor="inline")
    html = do_this(Diagnosis(read_report(str(tmp_path / "out"))))
    keys = yaml.safe_load(html.partition("<pre>")[2].partition("</pre>")[0])
    assert set(keys) == {"models", "merge_method"}
    dispositions = svc_dist.make_plan({**data, **keys}).results[0].dispositions
    assert [one.parameters["weight"] for one in dispositions if one.method == "task_arithmetic" and one.parameters] == [
        [1.0] * len(keys["models"])
    ] * 2
