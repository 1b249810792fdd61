"""The lists of methods: everything that the registry has, each parameter with its default, and Markdown that holds."""

from __future__ import annotations

import re

from svc_dist.cli.methods_page import method_lines, render
from svc_dist.methods.auto.table import CALIBRATIONS as BY_AUTO
from svc_dist.methods.auto.table import MERGE_METHODS
from svc_dist.methods.registry import CALIBRATIONS, METHODS
from svc_dist.recipe.presets import PRESETS


def test_the_page_has_a_section_for_everything_and_a_row_for_every_parameter() -> None:
    page = render()
    headings = re.findall(r"^### (\S+)$", page, re.MULTILINE)
    assert sorted(headings) == sorted([*METHODS, *CALIBRATIONS])
    for entry in (*METHODS.values(), *CALIBRATIONS.values()):
        section = page.partition(f"\n### {entry.name}\n")[2].partition("\n#")[0]
        rows = re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)
        assert rows == [parameter.name for parameter in entry.all_parameters]
    presets = page.partition("## Presets")[2]
    assert re.findall(r"^\| `(\S+)` \|", presets, re.MULTILINE) == list(PRESETS)


def test_defaults_are_as_one_writes_them_in_yaml() -> None:
    page = render()
    assert not re.search(r"\| (True|False|None) \|", page)
    assert "object at 0x" not in page


def test_every_row_of_a_table_has_its_columns() -> None:
    width = 0
    for line in render().splitlines():
        bars = len(re.findall(r"(?<!\\)\|", line)) if line.startswith("|") else 0
        assert not width or not bars or bars == width, line
        width = bars


def test_the_list_for_a_terminal_names_everything_once() -> None:
    lines = list(method_lines())
    named = [line.split()[0] for line in lines if re.match(r"  \S", line)]
    assert sorted(named) == sorted([*METHODS, *CALIBRATIONS, *PRESETS])


def test_the_page_shows_every_row_by_which_auto_chooses() -> None:
    section = render().partition("\n## auto\n")[2].partition("\n## ")[0]
    assert "*Experimental*" in section
    rows = [line for line in section.splitlines() if line.startswith("| ")]
    assert len(rows) == len(MERGE_METHODS) + len(BY_AUTO) + 2
    for row in (*MERGE_METHODS, *BY_AUTO):
        assert any(row.because in line and (row.evidence or "none yet") in line for line in rows)
