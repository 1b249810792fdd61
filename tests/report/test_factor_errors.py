"""What the pairs of an adapter miss, in words; and ``svc-dist extract``, which prints it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from svc_dist.cli.app import app
from svc_dist.report.factor_errors import FactorErrors
from tests.support.checkpoints import write_llamas


def test_errors_add_up_by_their_norms() -> None:
    errors = FactorErrors([
        {"tensor": "a", "matrix": 0, "rank": 2, "norm": 3.0, "error": 0.1},
        {"tensor": "b", "matrix": 1, "rank": 2, "norm": 4.0, "error": 0.5},
        {"tensor": "c", "matrix": 0, "rank": 2, "norm": 0.0, "error": 0.0},
    ])  # fmt: skip
    assert errors.total == pytest.approx((0.3**2 + 2.0**2) ** 0.5 / 5)
    first, *largest = errors.lines()
    assert first == "relative error 0.404 over 2 pairs of factors (Frobenius norm); 1 more pair without any change"
    assert largest == ["    0.5  b[1], rank 2", "    0.1  a, rank 2"]


def test_the_command(tmp_path: Path) -> None:
    base, model = write_llamas(tmp_path, experts=1)
    command = ["extract", str(base), str(model), str(tmp_path / "out"), "--rank", "3"]
    made = CliRunner().invoke(app, [*command, "--exclude", "*norm*"])
    assert made.exit_code == 0, made.output
    assert "relative error 0." in made.output
    again = CliRunner().invoke(app, [*command, "--exclude", "*norm*", "--json"])
    assert again.exit_code == 0, again.output
    assert len(json.loads(again.stdout)["matrices"]) == 16
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert (config["r"], config["modules_to_save"]) == (3, None)
