"""The notebook of the documentation runs from its first cell to its last, and what it shows is what it stores.

Its cells run here one after the other, as a kernel runs them: tests need no Jupyter.
"""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

import pytest

FILE = Path(__file__).parent.parent / "docs" / "notebook.ipynb"
NOTEBOOK = json.loads(FILE.read_text(encoding="utf-8"))
CELLS = [cell for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]


def run(source: str, names: dict[str, Any]) -> Any:
    """Run a cell. Returns the value of its last line where that is an expression, as a notebook shows it."""
    body = ast.parse(source).body
    last = body.pop() if isinstance(body[-1], ast.Expr) else None
    exec(compile(ast.Module(body, []), FILE.name, "exec"), names)
    return None if last is None else eval(compile(ast.Expression(last.value), FILE.name, "eval"), names)


def stored(cell: dict[str, Any]) -> dict[str, Any]:
    """What a cell stores as its result, by type."""
    results = [output["data"] for output in cell["outputs"] if output["output_type"] == "execute_result"]
    return {kind: "".join(text) for kind, text in results[0].items()} if results else {}


def headings(html: str) -> list[str]:
    """The title and the headings of tables, which are the same on every machine and in every run."""
    return re.findall(r"<(?:strong|th)[^>]*>(.*?)</", html)


def test_every_cell_runs_and_shows_what_it_stores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    shown = 0
    for cell in CELLS:
        value, before = run("".join(cell["source"]), names), stored(cell)
        assert (value is None) == (not before)
        if value is not None:
            assert repr(value).split()[0] == before["text/plain"].split()[0]
            assert hasattr(value, "_repr_html_") == ("text/html" in before)
        if "text/html" in before:
            shown += 1
            assert headings(value._repr_html_()) == headings(before["text/html"])
    assert shown == 3
    assert 2.8 < names["times_shared"]("plain") < 3.2
    assert 0.8 < names["times_shared"]("merged") < 1.3


def test_it_was_stored_after_a_run_from_its_first_cell_without_warnings() -> None:
    assert (NOTEBOOK["nbformat"], NOTEBOOK["nbformat_minor"]) == (4, 5)
    assert [cell["execution_count"] for cell in CELLS] == list(range(1, len(CELLS) + 1))
    outputs = [output for cell in CELLS for output in cell["outputs"]]
    assert not [output for output in outputs if output["output_type"] == "error" or output.get("name") == "stderr"]
    assert "<script" not in FILE.read_text(encoding="utf-8")
