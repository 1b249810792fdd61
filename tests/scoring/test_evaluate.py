"""``evaluate`` after a merge: scores in report and card, once each, of whole models only, and never unasked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

import svc_dist
from svc_dist.checks.verify import verify
from svc_dist.cli.app import app
from svc_dist.errors import EvaluationError, ExitCode, RecipeError, VerificationError
from svc_dist.report.page import render
from svc_dist.run_folder.report import read_report
from svc_dist.scoring.card import with_scores
from svc_dist.scoring.evaluate import evaluation_lines
from svc_dist.storage.access import DEFAULT_ACCESS
from tests.support.checkpoints import write_llamas, write_recipe


class Merge:
    """A recipe whose command counts its runs, and its output."""

    def __init__(self, folder: Path, **keys: Any) -> None:
        self.models = write_llamas(folder / "models")
        self.out, self.runs, self.folder = folder / "out", folder / "runs", folder
        self.recipe = self.write(**keys)

    def write(self, command: str = "echo '{\"acc\": 0.5}'", **keys: Any) -> Path:
        line = f"echo {{output}} >> {self.runs}; test -e {{output}}/config.json && {command}"
        entry = {"command": line, "name": "my task", "task": "text-generation"}
        return write_recipe(self.folder / "r.yaml", self.models, **{"evaluate": entry, **keys})

    def run(self, **options: Any) -> None:
        svc_dist.merge(self.recipe, self.out, executor="inline", device="cpu", **options)

    @property
    def count(self) -> int:
        return len(self.runs.read_text().splitlines()) if self.runs.exists() else 0


@pytest.fixture
def merge(tmp_path: Path) -> Merge:
    return Merge(tmp_path)


def test_scores_are_in_the_report_the_page_and_the_card_and_made_once(merge: Merge) -> None:
    merge.run()
    merge.run()
    assert merge.count == 1
    report = read_report(str(merge.out))
    (evaluation,) = report.evaluations
    assert (evaluation.name, evaluation.metrics) == ("my task", {"acc": 0.5})
    assert "<td>my task</td><td>acc</td><td>0.5</td>" in render(report, "title")
    card = yaml.safe_load((merge.out / "README.md").read_text().split("---")[1])
    (result,) = card["model-index"][0]["results"]
    assert result["task"]["type"] == "text-generation"
    assert (result["dataset"]["name"], result["metrics"][0]["type"]) == ("my task", "acc")
    assert result["metrics"][0]["value"] == 0.5
    assert "# Merged model" in (merge.out / "README.md").read_text()
    assert verify(str(merge.out), deep=True).ok


def test_another_command_is_another_evaluation_of_the_same_merge(merge: Merge) -> None:
    merge.run()
    merge.write("echo 2")
    merge.run()
    assert merge.count == 2
    assert [one.metrics for one in read_report(str(merge.out)).evaluations] == [{"score": 2.0}]


def test_a_command_that_fails_leaves_the_model_complete(merge: Merge) -> None:
    merge.write("echo no >&2; exit 4")
    with pytest.raises(EvaluationError) as caught:
        merge.run()
    assert caught.value.exit_code == ExitCode.UNITS_FAILED
    assert "evaluate 'my task': the command exited with 4" in str(caught.value)
    assert "is complete and verified" in str(caught.value)
    assert verify(str(merge.out), deep=True).ok
    assert not (merge.out / ".svc_dist").exists()
    merge.run(evaluate=False)
    assert merge.count == 1


def test_a_score_that_is_not_finite_is_none(merge: Merge) -> None:
    merge.write("echo nan")
    with pytest.raises(EvaluationError, match="no score is finite"):
        merge.run()


@pytest.mark.parametrize(
    ("start", "rest", "said"),
    [(b"", slice(-8), "was complete, but"), (b"\xff" * 8, slice(8, None), "is not evaluated")],
)
def test_a_model_that_is_not_whole_is_not_evaluated(merge: Merge, start: bytes, rest: slice, said: str) -> None:
    """Cut short, and of the right size with a damaged header."""
    merge.run(evaluate=False)
    shard = next(merge.out.glob("*.safetensors"))
    shard.write_bytes(start + shard.read_bytes()[rest])
    with pytest.raises(VerificationError, match=said):
        merge.run()
    assert merge.count == 0


def test_each_of_several_results_is_evaluated(tmp_path: Path) -> None:
    merge = Merge(tmp_path, outputs={"lambda": [0.3, 0.5]})
    merge.run()
    assert [Path(line).name for line in merge.runs.read_text().splitlines()] == ["lambda-0.3", "lambda-0.5"]
    assert read_report(str(merge.out / "lambda-0.5")).evaluations[0].metrics == {"acc": 0.5}


def test_a_recipe_from_elsewhere_runs_no_command_unasked(merge: Merge) -> None:
    url = f"file://{merge.recipe}"
    with pytest.raises(RecipeError, match="no local file, and it runs commands") as caught:
        svc_dist.merge(url, merge.out, executor="inline", device="cpu")
    assert caught.value.code == "commands-refused"
    assert not merge.out.exists()
    svc_dist.merge(url, merge.out, executor="inline", device="cpu", evaluate=False)
    assert merge.count == 0
    svc_dist.merge(url, merge.out, executor="inline", device="cpu", run_commands=True)
    assert merge.count == 1


def test_a_model_that_does_not_stay_is_not_evaluated(merge: Merge) -> None:
    merge.recipe.write_text(
        f"name: first\nbase_model: {merge.models[0]}\nmodels: [{{model: {merge.models[1]}}}]\n"
        "merge_method: task_arithmetic\nevaluate: echo 1 {output}\n---\n"
        f"base_model: {merge.models[0]}\nmodels: [{{model: first}}]\nmerge_method: task_arithmetic\n"
    )
    with pytest.raises(RecipeError, match=r"r\.yaml:5 \(evaluate\): the model of the document 'first' does not stay"):
        merge.run()


def test_a_plan_shows_the_commands(merge: Merge) -> None:
    (line,) = evaluation_lines(str(merge.recipe), None, {}, DEFAULT_ACCESS)
    assert line.startswith("then runs, as 'my task': echo {output}")
    shown = CliRunner().invoke(app, ["plan", str(merge.recipe)]).output
    assert line in shown


def test_a_card_that_someone_changed_keeps_its_text(merge: Merge) -> None:
    merge.run()
    card = (merge.out / "README.md").read_text() + "\nMy own words.\n"
    scored = with_scores(card, "out", read_report(str(merge.out)).evaluations)
    assert scored == card
    assert with_scores("no metadata\n", "out", read_report(str(merge.out)).evaluations).endswith("no metadata\n")
