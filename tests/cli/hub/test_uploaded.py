"""What ``svc-dist plan`` says of an OUTPUT on a hub, which it does not ask; and commands that do not take one."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from svc_dist.cli.app import app
from svc_dist.errors import OutputError, RecipeError
from tests.support.checkpoints import write_llamas, write_recipe


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    return write_recipe(folder / "recipe.yaml", write_llamas(folder))


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, list(map(str, arguments)))


def test_plan_says_where_the_model_is_made_and_where_it_goes(recipe: Path) -> None:
    done = run("plan", recipe, "hf://acme/merged@next", "--staging", "staged")
    assert done.exit_code == 0, done.output
    assert "makes the model in staged, which needs" in done.output
    assert "to acme/merged, branch next; a new repository is private unless --public is given" in done.output


@pytest.mark.parametrize("command", ["plan", "doctor"])
def test_what_looks_ahead_needs_the_staging_folder_as_the_merge_does(recipe: Path, command: str) -> None:
    done = run(command, recipe, "hf://acme/merged")
    assert isinstance(done.exception, OutputError)
    assert "add --staging FOLDER" in str(done.exception)


def test_doctor_refuses_options_of_a_hub_for_another_output(recipe: Path, tmp_path: Path) -> None:
    done = run("doctor", recipe, tmp_path / "out", "--staging", "staged")
    assert isinstance(done.exception, RecipeError)
    assert "--staging is about an OUTPUT on a hub" in str(done.exception)


def test_other_commands_take_the_staging_folder() -> None:
    done = run("clean", "hf://acme/merged")
    assert isinstance(done.exception, OutputError)
    assert "other commands take FOLDER" in str(done.exception)
