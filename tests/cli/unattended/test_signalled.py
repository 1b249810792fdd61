"""The options of signals (svc_dist.cli.unattended.signalled) reach the merge; mistakes in arguments are told too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import svc_dist.api
from svc_dist.cli.app import app
from svc_dist.errors import RecipeError
from svc_dist.run.signals.reporter import Signals


def test_options_reach_the_merge(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    given: dict[str, Any] = {}

    def merge(*_: object, **options: Any) -> None:
        given.update(options)
        raise RecipeError("enough")

    monkeypatch.setattr(svc_dist.api, "merge", merge)
    monkeypatch.setenv("SVC_DIST_NOTIFY", "https://host/hook")
    file = tmp_path / "merge.prom"
    options = ["--on-success", "good", "--on-failure", "bad", "--metrics-file", str(file), "--hook-timeout", "5"]
    CliRunner().invoke(app, ["merge", "recipe.yaml", "out", *options])
    assert given["signals"] == Signals("good", "bad", "https://host/hook", file, None, 5.0)


def test_a_mistake_in_the_arguments_is_told(tmp_path: Path) -> None:
    hook = f"echo $SVC_DIST_STATE $SVC_DIST_EXIT_CODE $SVC_DIST_OUTPUT > {tmp_path}/told"
    done = CliRunner().invoke(app, ["merge", str(tmp_path / "missing"), "out", "--on-failure", hook])
    assert isinstance(done.exception, RecipeError)
    assert (tmp_path / "told").read_text() == "failed 2 out\n"
