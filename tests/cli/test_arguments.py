"""What the commands take: a recipe and an output, or models with options in place of a recipe."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from click.testing import CliRunner, Result

from svc_dist.cli.app import app
from svc_dist.errors import RecipeError
from tests.support.checkpoints import write_llamas, write_recipe

COMMAND = typer.main.get_command(app)


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(COMMAND, [str(argument) for argument in arguments])


def refused(*arguments: str | Path) -> str:
    done = run(*arguments)
    assert isinstance(done.exception, RecipeError), done.output
    return str(done.exception)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A base and two experts."""
    return write_llamas(tmp_path_factory.mktemp("models"))


def test_models_merge_without_a_recipe_as_with_the_recipe_that_is_published(models: list[Path], tmp_path: Path) -> None:
    options = ["--method", "ties", "--weight", 0.3, "--weight", 0.5, "--density", 0.4, "--lambda", 0.9]
    options += ["--calibrate", "svc", "--set", "calibrate.alpha=0.6", "--dtype", "float32"]
    done = run("merge", *models, *options, "--output", tmp_path / "out")
    assert done.exit_code == 0, done.output
    published = json.loads((tmp_path / "out" / "merge_report.json").read_text())["recipe"]
    assert [entry["parameters"]["weight"] for entry in published["models"]] == [0.3, 0.5]
    assert published["parameters"] == {"density": 0.4, "lambda": 0.9}
    assert published["calibrate"] == {"method": "svc", "alpha": 0.6}
    assert published["dtype"] == "float32"
    assert run("merge", tmp_path / "out" / "merge_report.json", tmp_path / "again").exit_code == 0
    one, other = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("out", "again"))
    assert one == other


def test_another_value_is_a_changed_recipe(models: list[Path], tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "r.yaml", models)
    assert run("merge", recipe, tmp_path / "out", "--set", "parameters.lambda=0.4").exit_code == 0
    assert run("merge", recipe, tmp_path / "out", "--set", "parameters.lambda=0.4").exit_code == 0
    done = run("merge", recipe, tmp_path / "out", "--set", "parameters.lambda=0.5")
    assert "recipe: parameters: lambda: was 0.4, is 0.5" in str(done.exception)


def test_plan_doctor_and_inspect_take_the_same_form(models: list[Path], tmp_path: Path) -> None:
    planned = run("plan", *models, "--method", "task_arithmetic", "--weight", 0.25)
    assert "task_arithmetic (weight 0.25" in planned.output
    checked = run("doctor", *models, "--method", "linear", "--output", tmp_path / "out")
    assert checked.exit_code == 0, checked.output
    inspected = run("inspect", *models)
    assert inspected.exit_code == 0, inspected.output
    assert "over-count" in inspected.output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("merge {base} {one} {two} --method ties", "OUTPUT is missing: where to write the merged model\n  write"),
        ("merge {base} {one} {two} --method ties", "or svc-dist merge BASE EXPERT... --method NAME --output OUTPUT"),
        ("merge {base} --method ties --output x", "an expert is missing: BASE alone is given"),
        ("merge {base} {one} out", "is a folder, not a recipe\n  write svc-dist merge RECIPE OUTPUT, or"),
        ("merge nothing out", "there is no recipe nothing\n  write svc-dist merge RECIPE OUTPUT, or svc-dist merge"),
        ("merge {recipe}", "OUTPUT is missing"),
        ("merge {recipe} a b", "a recipe and one OUTPUT are expected, not 3 arguments"),
        ("merge out {recipe}", "out is not a recipe, but {recipe} is: the recipe comes first\n  write svc-"),
        ("plan {recipe} --output x", "--output goes with --method: after a recipe, OUTPUT is the second argument"),
        ("plan {recipe} --lambda 0", "--lambda goes with --method\n  to change a recipe, write --set parameters"),
        ("plan {recipe} --weight 1", "to change a recipe, write --set parameters.weight=VALUE"),
        ("plan {base} {one} --method tise", "--method: there is no merge method 'tise'\n  did you mean 'ties'?"),
        ("plan {base} {one} {two} --method ties --weight 1 --weight 2 --weight 3", "--weight: 3 weights for 2 experts"),
        ("plan {base} {one} --method linear --lambda 1", "--lambda: linear takes no parameter 'lambda'"),
        ("plan {base} {one} --method ties --density 2", "--density: ties: density is 2.0, but must be"),
        ("plan {base} {one} --method ties --dtype f32", "--dtype: 'f32' is not one of"),
        ("plan {base} {one} --method ties --calibrate sv", "--calibrate: there is no calibration 'sv'"),
        ("plan {base} {base}/nothing --method ties", "EXPERT: "),
        ("plan {base}/nothing {one} --method ties", "BASE: "),
        ("plan {base} {one} --method ties --set parameters.dens=2", "--set parameters.dens: ties takes no parameter"),
        ("inspect {base}", "is a folder, not a recipe\n  write svc-dist inspect RECIPE, or svc-dist inspect BASE"),
    ],
)  # fmt: skip
def test_wrong_arguments_are_refused_with_the_right_form(
    models: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    base, one, two = models
    names = {"base": base, "one": one, "two": two, "recipe": write_recipe(tmp_path / "r.yaml", models)}
    assert message.format(**names) in refused(*(word.format(**names) for word in words.split()))


def test_an_empty_argument_is_refused(models: list[Path]) -> None:
    assert "it is empty: name a folder or URL" in run("plan", models[0], " ", "--method", "ties").output
