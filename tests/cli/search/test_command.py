"""``svc-dist search`` on the command line: the table, JSON, and errors that name the option."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from svc_dist.cli.app import app
from svc_dist.errors import OutputError, RecipeError
from tests.support.checkpoints import write_llamas, write_recipe


@pytest.fixture
def arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.chdir(tmp_path)
    write_recipe(tmp_path / "mine.yaml", write_llamas(tmp_path / "models"))
    return ["search", "mine.yaml", "--score", "echo 0.5 # {output}", "--over", "lambda=0.5,1", "--device", "cpu"]


def test_the_table_and_where_things_are(arguments: list[str], tmp_path: Path) -> None:
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert "trial  score  lambda\n0      0.5    recipe\n1      0.5    0.5\n2      0.5    1.0\n" in done.output
    assert "best: the recipe as it is, score 0.5; its recipe is" in done.output
    assert (tmp_path / "mine-search" / "search.html").exists()
    again = CliRunner().invoke(app, [*arguments, "--json"], catch_exceptions=False)
    data = json.loads(again.stdout)
    assert [one["score"] for one in data["trials"]] == [0.5, 0.5, 0.5]
    assert data["recipe"] == str(tmp_path / "mine-search" / "best.yaml")


def test_a_recipe_from_standard_input_has_a_folder_that_is_no_option(arguments: list[str], tmp_path: Path) -> None:
    text = (tmp_path / "mine.yaml").read_text()
    CliRunner().invoke(app, ["search", "-", *arguments[2:]], input=text, catch_exceptions=False)
    assert (tmp_path / "recipe-search" / "best.yaml").exists()


def test_a_url_is_no_folder_for_a_search(arguments: list[str]) -> None:
    with pytest.raises(OutputError, match="s3://bucket/found is a URL"):
        CliRunner().invoke(app, [*arguments[:2], "s3://bucket/found", *arguments[2:]], catch_exceptions=False)


def test_an_option_that_is_wrong_is_named(arguments: list[str]) -> None:
    with pytest.raises(RecipeError, match="--over lamda"):
        CliRunner().invoke(app, [*arguments, "--over", "lamda=0:1"], catch_exceptions=False)
