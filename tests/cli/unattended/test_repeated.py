"""The options of repeated merges (svc_dist.cli.unattended.repeated) reach the merge."""

from __future__ import annotations

from typing import Any

import pytest
from typer.testing import CliRunner

import svc_dist.api
from svc_dist.cli.app import app
from svc_dist.errors import RecipeError
from svc_dist.run.series.nightly import Nightly


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], Nightly()),
        (["--if-changed"], Nightly(if_changed=True)),
        (["--latest", "--keep", "3"], Nightly(latest=True, keep=3)),
    ],
)
def test_options(monkeypatch: pytest.MonkeyPatch, options: list[str], expected: Nightly) -> None:
    given: dict[str, Any] = {}

    def merge(*_: object, **options: Any) -> None:
        given.update(options)
        raise RecipeError("enough")

    monkeypatch.setattr(svc_dist.api, "merge", merge)
    CliRunner().invoke(app, ["merge", "recipe.yaml", "out-{date}", *options])
    assert given["nightly"] == expected


def test_keep_is_a_number_of_at_least_one() -> None:
    assert CliRunner().invoke(app, ["merge", "recipe.yaml", "out-{date}", "--keep", "0"]).exit_code == 2
