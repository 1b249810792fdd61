"""Reports and inspections as a notebook shows them. Those of plans: with ``svc_dist.plan.model``."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

import svc_dist
from svc_dist.report.readable import Report
from svc_dist.run_folder.report import read_report
from tests.support.checkpoints import recipe_data, write_llamas


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("readable")
    svc_dist.merge(recipe_data(write_llamas(folder / "models"), calibrate="svc"), folder / "merged", executor="inline")
    return folder


def test_a_report_reads_as_the_file_says(folder: Path) -> None:
    stored = read_report(str(folder / "merged"))
    report = Report.of(stored)
    assert dataclasses.asdict(report) == dataclasses.asdict(stored)
    assert repr(report) == f"<Report of a merge, finished {stored.finished}: 2 experts, 14 matrices>"


def test_a_notebook_shows_verdict_kinds_and_origin(folder: Path) -> None:
    report = svc_dist.read_report(folder / "merged")
    shown = report._repr_html_()
    assert report.verdict in shown
    assert all(text in shown for text in ("self_attn.q_proj", "most over-counted", "expert0", report.finished))
    assert "<script" not in shown


def test_an_inspection_is_a_report_without_a_result(folder: Path) -> None:
    inspection = svc_dist.inspect(recipe_data(sorted((folder / "models").iterdir())), "0")
    assert repr(inspection) == "<Report of an inspection: 2 experts, 7 matrices>"
    assert inspection._repr_html_().startswith("<div><strong>Inspection</strong>")
    assert "would" in inspection.verdict
    assert "finished" not in inspection._repr_html_()
