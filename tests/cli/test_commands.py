"""What the commands print, and how they refuse what they cannot do.

The commands are those of ``svc_dist.cli.plan_commands``, ``svc_dist.cli.merge_commands`` and
``svc_dist.cli.model_commands``.
"""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import typer
from click.testing import CliRunner, Result

import svc_dist
from svc_dist.cli.app import app
from svc_dist.errors import RecipeError, StorageError, SvcDistError
from tests.support.checkpoints import write_llamas, write_recipe

COMMAND = typer.main.get_command(app)


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(COMMAND, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    return write_recipe(folder / "recipe.yaml", write_llamas(folder))


@pytest.mark.parametrize(
    "arguments",
    [
        ("measure-host", "{new}/host.json"),
        ("measure-host", "--folder", "{new}"),
        ("inspect", "{recipe}", "--html", "{new}/page"),
        ("report", "{new}", "--html", "{new}/page"),
    ],
)
def test_a_result_that_cannot_be_written_is_refused_before_the_work(
    recipe: Path, tmp_path: Path, arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise AssertionError("it began to work")

    monkeypatch.setattr("svc_dist.api.inspect", fail)
    monkeypatch.setattr("subprocess.run", fail)
    done = run(*(word.format(new=tmp_path / "new", recipe=recipe) for word in arguments))
    assert isinstance(done.exception, SvcDistError), done.output
    assert "there is no folder" in str(done.exception)


def test_a_storage_that_cannot_be_written_to_is_refused_before_the_measurement(tmp_path: Path) -> None:
    began = time.monotonic()
    done = run("measure-host", "--storage", "http://127.0.0.1:9/bucket", "--folder", tmp_path)
    assert isinstance(done.exception, StorageError), done.output
    assert time.monotonic() - began < 25


def test_plan_says_which_device_it_planned_for_and_takes_the_settings_of_the_run(recipe: Path, tmp_path: Path) -> None:
    assert "precision mixed, 1 thread per unit" in run("plan", recipe).stdout
    assert "planned for cuda" in run("plan", recipe, "--device", "cuda").stdout
    svc_dist.merge(recipe, tmp_path / "out", device="cpu", precision="fast", threads_per_unit=2, executor="inline")
    assert "planned for cpu, precision fast, 2 threads per unit" in run("plan", recipe, tmp_path / "out").stdout


@pytest.mark.parametrize("option", ["--device=cpu", "--threads-per-unit=2"])
def test_a_prediction_takes_its_machines_from_the_cluster_alone(recipe: Path, option: str) -> None:
    done = run("plan", recipe, "--cluster", "nodes=2,cpus=4", option)
    assert done.exit_code == 2
    assert f"leave out {option.partition('=')[0]}" in done.output


@pytest.mark.parametrize("call", ["make_plan", "inspect"])
def test_python_refuses_a_wrong_precision_too(recipe: Path, call: str) -> None:
    with pytest.raises(SvcDistError, match="precision is 'flot64'"):
        getattr(svc_dist, call)(recipe, precision="flot64")


@pytest.mark.parametrize("folder", ["/proc/x/y", "/dev/null/x"])
def test_a_demo_that_cannot_make_its_folder_says_so(folder: str) -> None:
    assert "cannot write" in str(run("demo", folder).exception)


@pytest.mark.parametrize("command", ["merge", "status", "verify"])
def test_an_empty_output_is_refused(recipe: Path, command: str) -> None:
    done = run(command, *([recipe] if command == "merge" else []), "")
    assert done.exit_code == 2
    assert "it is empty" in done.output


@pytest.mark.parametrize(
    ("layers", "missing"), [("1-99999999999", 2), ("99999999999", 99999999999), ("0,40", 40), ("0-40", 2)]
)
def test_a_layer_that_is_named_and_not_there_is_refused(recipe: Path, layers: str, missing: int) -> None:
    done = run("inspect", recipe, "--layers", layers)
    assert isinstance(done.exception, RecipeError), done.output
    assert f"--layers names layer {missing}, but the model has layers 0 to 1" in str(done.exception)
