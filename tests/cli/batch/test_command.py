"""``svc-dist batch`` on the command line: several merges, their options, the table, the report."""

from __future__ import annotations

import errno
import inspect
import io
import json
from pathlib import Path
from typing import Any

import pytest
import typer
from click.testing import Result
from typer.testing import CliRunner

import svc_dist.api
from svc_dist.cli import merge_commands
from svc_dist.cli.app import app
from svc_dist.errors import DrainedError, RecipeError, StorageError
from tests.support.checkpoints import write_llamas, write_recipe


@pytest.fixture
def recipes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with three recipes, of which the second is wrong."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "recipes"
    folder.mkdir()
    models = write_llamas(tmp_path / "models")
    for name in ("a", "b", "c"):
        write_recipe(folder / f"{name}.yaml", models)
    (folder / "b.yaml").write_text("merge_method: no\n")
    return folder


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["batch", *map(str, arguments), "--executor", "inline", "--device", "cpu"])


def test_every_recipe_is_merged_but_the_wrong_one_and_what_is_complete_is_skipped(
    recipes: Path, tmp_path: Path
) -> None:
    done = run(recipes, "merged")
    assert done.exit_code == 2, done.output
    assert "2 of 3 merges complete; report: recipes-batch.json" in done.output
    assert "next:" not in done.output  # as after a single merge
    assert sorted(path.parent.name for path in tmp_path.glob("merged/*/merge_report.json")) == ["a", "c"]
    written = {path: path.stat().st_mtime_ns for path in tmp_path.glob("merged/*/*")}
    write_recipe(recipes / "b.yaml", sorted((tmp_path / "models").iterdir()))
    again = run(recipes, "merged")
    assert again.exit_code == 0, again.output
    report = json.loads((tmp_path / "recipes-batch.json").read_text())
    assert [one["state"] for one in report["merges"]] == ["unchanged", "complete", "unchanged"]
    assert {path: path.stat().st_mtime_ns for path in written} == written


def test_quiet_leaves_the_failures(recipes: Path) -> None:
    done = run(recipes, "merged", "-q")
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.count(" error: b: ") == 1
    assert "complete" not in done.stderr
    assert "merged/a" not in done.stderr


def test_options_of_a_merge_reach_each(recipes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[tuple[Any, ...]] = []

    def merge(recipe: str, output: str, **options: Any) -> None:
        given.append((Path(recipe).name, output, options["grace"], options["changes"], options["signals"].metrics_file))
        raise RecipeError("enough")

    monkeypatch.setattr(svc_dist.api, "merge", merge)
    options = ["--grace", "7", "--set", "parameters.lambda=0.5", "--metrics-file", "merge.prom"]
    run(recipes, "s3://b/{recipe}/{date}", "--if-changed", "--keep", "2", *options)
    assert given == [
        (f"{name}.yaml", f"s3://b/{name}/{{date}}", 7.0, {"parameters.lambda": 0.5}, Path(f"merge-{name}.prom"))
        for name in "abc"
    ]


def test_each_merge_to_a_hub_has_a_staging_folder_of_its_own(
    recipes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, tuple[str | None, bool]] = {}

    def merge(recipe: str, output: str, **options: Any) -> None:
        given[output] = options["staging"], options["public"]
        raise RecipeError("enough")

    monkeypatch.setattr(svc_dist.api, "merge", merge)
    (tmp_path / "list.yaml").write_text("- recipes/a.yaml\n- {recipe: recipes/c.yaml, output: out}\n")
    run("list.yaml", "hf://acme/{recipe}", "--staging", "staged/", "--public")
    assert given == {"hf://acme/a": ("staged/a", True), str(tmp_path / "out"): (None, False)}


@pytest.mark.parametrize(("option", "value"), [("--notify", "ftp://x"), ("--storage-timeout", "0")])
def test_options_are_checked_before_the_first_merge(recipes: Path, option: str, value: str) -> None:
    done = run(recipes, "merged", option, value)
    assert done.exit_code == 2 or isinstance(done.exception, RecipeError)
    assert not Path("recipes-batch.json").exists()


def test_it_has_every_option_of_a_merge() -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    merge = inspect.unwrap(merge_commands.merge)
    own = set(inspect.signature(merge).parameters) - {"recipe", "output", "changes"}
    shared = {one.name: (one.opts, one.help) for one in commands["merge"].params if one.name in own}
    assert len(shared) == len(own) > 20
    assert {one.name: (one.opts, one.help) for one in commands["batch"].params if one.name in own} == shared


def test_a_stop_is_raised_with_its_code_after_the_table(recipes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def merge(*_: Any, **__: Any) -> None:
        raise DrainedError("the merge is not complete")

    monkeypatch.setattr(svc_dist.api, "merge", merge)
    done = run(recipes, "merged", "--report", "other.json")
    assert isinstance(done.exception, DrainedError)
    assert "0 of 3 merges complete; report: other.json" in done.output


@pytest.mark.parametrize(
    ("options", "about"),
    [
        (("--public",), "--public is about an OUTPUT on a hub"),
        (("--staging", "staged"), "--staging is about an OUTPUT on a hub"),
        (("--keep", "3"), "--keep takes an OUTPUT with {date}"),
        (("--address", "10.0.0.1:6379"), "but executor is inline"),
    ],
)
def test_what_is_wrong_for_all_is_said_once_before_the_first(
    recipes: Path, tmp_path: Path, options: tuple[str, ...], about: str
) -> None:
    done = run(recipes, "merged", "--on-failure", f"echo $SVC_DIST_ERROR > {tmp_path}/told", *options)
    assert isinstance(done.exception, RecipeError)
    assert about in str(done.exception)
    assert about in (tmp_path / "told").read_text()
    assert not (tmp_path / "recipes-batch.json").exists()


def test_a_report_in_no_folder_is_refused(recipes: Path) -> None:
    (recipes.parent / "file").write_text("")
    assert isinstance(run(recipes, "merged", "--report", "file/x.json").exception, StorageError)


class Full(io.StringIO):
    """A standard output that takes nothing."""

    def __init__(self, why: type[OSError]) -> None:
        super().__init__()
        self.why = why

    def write(self, text: str) -> int:
        raise self.why(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("why", [OSError, BrokenPipeError])
def test_a_table_that_cannot_be_written_changes_nothing(
    recipes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, why: type[OSError]
) -> None:
    monkeypatch.setattr("sys.argv", ["svc-dist", "batch", str(recipes), "merged", "--device", "cpu"])
    monkeypatch.setattr("sys.stdout", Full(why))
    assert app(standalone_mode=False) == 2  # of the wrong recipe, not of the output
    report = json.loads((tmp_path / "recipes-batch.json").read_text())
    assert [one["state"] for one in report["merges"]] == ["complete", "failed", "complete"]
