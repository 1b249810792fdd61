"""The check of ``auto``: tables are read from a page, each benchmark is left out once, and the page says the result."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks.quality.auto import Case, cases, check, chosen, learned, main

PAGE = """\
<!-- table: tasks -->
| task | what |
|---|---|
| a | x |
| b | x |
<!-- end -->
<!-- table: methods -->
| method | setting | accuracy | SVC 1/K adds | SVC 1 adds |
|---|---|---|---|---|
| (base) |  | 50.0 |  |  |
| average |  | 60.0 | +10.0 (+9.0 to +11.0) | -0.5 (-1.0 to +0.0) |
| SWUDI-A | rank_rule cumvar_0.99 | 70.0 | +0.7 (+0.1 to +1.2); rank_rule entropy | - |
<!-- end -->
<!-- table: lm methods -->
| experts | K | method | setting | score |
|---|---|---|---|---|
| full | 3 | (base) |  | 20.0 |
| full | 3 | average |  | 41.0 |
| full | 3 | SWUDI-A |  | 40.8 |
| lora | 3 | average |  | 41.0 |
<!-- end -->
<!-- table: auto -->
<!-- end -->
"""


def test_benchmarks_are_read_from_the_page() -> None:
    encoder, full, lora = cases(PAGE)
    assert (encoder.name, encoder.kind) == ("encoder, K = 2", "full")
    assert encoder.scores == {"average": 60.0, "average + SVC": 70.0, "SWUDI-A": 70.0, "SWUDI-A + SVC": 70.7}
    assert (full.name, full.scores) == ("LM full, K = 3", {"average": 41.0, "SWUDI-A": 40.8})
    assert (lora.benchmark, lora.kind) == ("LM lora", "lora")


def test_the_tables_of_the_others_choose_what_they_have_in_common() -> None:
    one = Case("one", "full", 4, {"a": 10.0, "b": 12.0, "c": 20.0})
    other = Case("other", "full", 4, {"a": 10.0, "b": 9.8})
    sparse = Case("third", "sparse", 4, {"a": 30.0, "b": 1.0})
    assert learned([one, other], "full") == "b"
    assert learned([one, other], "lora") == "b"
    assert learned([one, other, sparse], "sparse") == "a"
    assert learned([], "full") is None


def test_rows_of_auto_are_looked_up_by_the_names_of_the_tables() -> None:
    assert chosen(Case("x", "full", 4, {"SWUDI-A + SVC": 1.0, "SWUDI-A": 0.0})) == "SWUDI-A + SVC"
    assert chosen(Case("x", "full", 4, {"SWUDI-A": 0.0})) == "SWUDI-A"


def test_a_benchmark_beyond_the_tolerance_fails_the_check() -> None:
    full = {"SWUDI-A + SVC": 79.0, "TSV-M + SVC": 79.4}
    near, far = Case("near", "full", 8, full), Case("far", "full", 8, {**full, "TSV-M + SVC": 79.6})
    table, within = check([near, Case("other", "full", 8, {**full, "TSV-M + SVC": 78.9})])
    assert within
    assert "| near, K = 8 | TSV-M + SVC (79.4) | SWUDI-A + SVC | 0.4 | SWUDI-A + SVC | 0.4 |" in table
    assert not check([far, Case("other", "full", 8, {**full, "TSV-M + SVC": 78.9})])[1]
    assert not check([near])[1]


def test_the_page_gets_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "choosing.md").write_text(PAGE)
    monkeypatch.setattr(sys, "argv", ["auto", "--docs", str(tmp_path)])
    main()
    assert "| encoder, K = 2 | SWUDI-A + SVC (70.7) |" in (tmp_path / "choosing.md").read_text()
    assert "auto stays experimental" in capsys.readouterr().out
