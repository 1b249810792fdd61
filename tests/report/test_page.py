"""The page of a merge: made by the command, whole in itself, drawn by a browser."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
from typer.testing import CliRunner

import svc_dist
from svc_dist.cli.app import app
from tests.support.checkpoints import recipe_data, write_llamas

_EMPTY = {"meta", "path", "circle", "wbr"}


class Outline(HTMLParser):
    """The headings of a page and how many plots it has; every tag is closed in its turn."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.headings: list[str] = []
        self.plots = 0
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.plots += tag == "svg"
        if tag not in _EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in _EMPTY:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "h2":
            self.headings.append(data)


@pytest.fixture(scope="module")
def merged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("merged")
    models = write_llamas(folder / "models")
    svc_dist.merge(recipe_data(models, calibrate="svc"), folder / "calibrated", executor="inline")
    svc_dist.merge(recipe_data(models, "swudi_a"), folder / "plain", executor="inline")
    return folder


def page_of(folder: Path, output: str) -> str:
    done = CliRunner().invoke(app, ["report", str(folder / output), "--html", str(folder / f"{output}.html")])
    assert done.exit_code == 0, done.output
    return (folder / f"{output}.html").read_text()


def test_a_calibrated_merge_shows_everything_but_ranks(merged: Path) -> None:
    page = Outline(page_of(merged, "calibrated"))
    assert page.headings == [
        "Do this",
        "Over-counting",
        "Gamma",
        "Worst matrices",
        "Spectra",
        "Cross-expert overlap",
        "Delta norms",
        "Where the time went",
        "Provenance",
        "Recipe",
    ]
    assert page.plots == 8  # six spectra, the mean cosine by layer, the norms


def test_the_bar_of_seconds_has_the_stages_in_the_order_of_the_work(merged: Path) -> None:
    from svc_dist.report.page import render
    from svc_dist.run_folder.report import MergeReport

    report = json.loads((merged / "calibrated" / "merge_report.json").read_text())
    report["unit_seconds"] = {"write": 1.0, "compute": 2.0, "other": 0.5, "read": 3.0}
    text = render(MergeReport.parse(report, "a report"), "a merge")
    assert re.findall(r"flex: ([\d.]+)", text) == ["3", "2", "1", "0.5"]
    assert re.findall(r"</em>(\w+) ([\d.]+) s", text) == [
        ("read", "3.0"), ("compute", "2.0"), ("write", "1.0"), ("other", "0.5"),
    ]  # fmt: skip
    report["unit_seconds"] = {"read": 0.0}
    assert "Where the time went" not in render(MergeReport.parse(report, "a report"), "a merge")


def test_a_merge_without_calibration_says_so_and_shows_its_ranks(merged: Path) -> None:
    text = page_of(merged, "plain")
    assert "This merge was not calibrated." in text
    assert "Kept ranks" in Outline(text).headings


def test_the_page_asks_the_network_for_nothing_and_is_the_same_every_time(merged: Path) -> None:
    text = page_of(merged, "calibrated")
    assert not re.search(r"(src|href)=[\"'](?!#|data:)", text)
    assert "<script" not in text
    assert not re.search(r"url\(|@import|<link|<iframe", text)
    assert text == page_of(merged, "calibrated")


def test_what_a_recipe_says_cannot_become_markup(merged: Path) -> None:
    from svc_dist.report.page import render
    from svc_dist.run_folder.report import MergeReport

    report = json.loads((merged / "calibrated" / "merge_report.json").read_text())
    report["models"][1]["location"] = "<script>alert(1)</script>"
    report["recipe"]["models"][0]["model"] = "<img src=x>"
    report["matrices"][0]["tensor"] = "layers.0.<b>"
    text = render(MergeReport.parse(report, "a report"), "<i>")
    assert not re.search(r"<(script|img|b|i)\b", text)


def test_an_output_without_a_merge_is_refused(tmp_path: Path, merged: Path) -> None:
    done = CliRunner().invoke(app, ["report", str(tmp_path)])
    assert "holds no finished merge of svc-dist" in str(done.exception)
    (tmp_path / "merge_report.json").write_text("{}")
    done = CliRunner().invoke(app, ["report", str(tmp_path)])
    assert "cannot be read" in str(done.exception)


@pytest.mark.slow
def test_a_browser_draws_the_page(merged: Path, tmp_path: Path) -> None:
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("chromium is not installed")
    page_of(merged, "calibrated")
    options = [
        "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
        "--disable-background-networking", "--disable-component-update", f"--user-data-dir={tmp_path}",
        "--window-size=1100,3000", f"--screenshot={tmp_path / 'page.png'}",
    ]  # fmt: skip
    address = (merged / "calibrated.html").as_uri()
    subprocess.run([chromium, *options, address], check=True, timeout=180, capture_output=True)
    from PIL import Image

    picture = Image.open(tmp_path / "page.png").convert("RGB")
    colours = picture.resize((picture.width // 4, picture.height // 4)).getcolors(1 << 20)
    assert colours is not None
    assert len(colours) > 500  # heat maps and lines, not a blank or a page of text
