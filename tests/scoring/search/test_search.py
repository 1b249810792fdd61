"""A search from end to end: few passes, resumed at any point, its best recipe, and what is refused beforehand."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import svc_dist
from svc_dist.errors import EvaluationError, Interrupted, OutputError, RecipeError, StorageError
from svc_dist.plan.settings import SettingsRequest
from svc_dist.run.options import Options
from svc_dist.scoring.search import search as module
from svc_dist.scoring.search.outcome import Outcome
from svc_dist.scoring.search.search import SearchRequest, search
from svc_dist.scoring.search.trials import State
from svc_dist.storage.access import DEFAULT_ACCESS
from tests.support.adapters import lora, write_adapter
from tests.support.checkpoints import write_checkpoint, write_llamas

RECIPE = """\
# mine
base_model: models/base   # the ancestor
models:
  - model: models/expert0
  - model: models/expert1
merge_method: task_arithmetic
calibrate: svc  # counted once
evaluate: python score.py {output}
search:
  lambda: [0.2, 1.0]
  alpha: {grid: [0.5, 1.0]}
"""
#: Best at lambda 0.6 and alpha 0.5; it counts its runs.
SCORE = """\
import json, pathlib, sys
made = json.load(open(sys.argv[1] + "/merge_report.json"))
merged = next(one for one in made["dispositions"] if one["calibration"])
scale, alpha = merged["parameters"]["lambda"], merged["calibration"]["alpha"]
with open(pathlib.Path(__file__).with_name("runs"), "a") as runs:
    runs.write(pathlib.Path(sys.argv[1]).name + chr(10))
print(json.dumps({"acc": 1 - (scale - 0.6) ** 2 - (alpha - 0.5) ** 2, "loss": 1.0}))
"""


class Search:
    """A recipe, a score script, and the folder of their search."""

    def __init__(self, folder: Path) -> None:
        write_llamas(folder / "models")
        self.recipe, self.script, self.out = folder / "r.yaml", folder / "score.py", folder / "found"
        self.runs_file = folder / "runs"
        self.recipe.write_text(RECIPE)
        self.script.write_text(SCORE)
        self.command = f"{sys.executable} {self.script} {{output}}"

    def run(self, changes: dict[str, Any] | None = None, recipe: str | None = None, **asked: Any) -> Outcome:
        request = SearchRequest(**{"command": self.command, "trials": 5, "metric": "acc", **asked})
        options = Options(executor="inline", settings=SettingsRequest(device="cpu"))
        return search(recipe or self.recipe, self.out, request, options, changes or {}, DEFAULT_ACCESS)

    @property
    def runs(self) -> list[str]:
        return self.runs_file.read_text().split() if self.runs_file.exists() else []


@pytest.fixture
def searched(tmp_path: Path) -> Search:
    return Search(tmp_path)


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many models each pass over the experts made."""
    counts: list[int] = []
    real = module.run_merge

    def counted(recipe: Any, *rest: Any) -> Any:
        counts.append(len(recipe.results))
        return real(recipe, *rest)

    monkeypatch.setattr(module, "run_merge", counted)
    return counts


def test_trials_share_passes_and_the_best_recipe_makes_the_best_model(
    searched: Search, passes: list[int], tmp_path: Path
) -> None:
    outcome = searched.run()
    assert passes == [4, 2]
    assert searched.runs == [f"trial-{number:04d}" for number in range(6)]
    assert sorted(path.name for path in searched.out.iterdir()) == [
        "best.yaml", "search.html", "search.json", "trials", "trials.csv",
    ]  # fmt: skip
    best = outcome.best
    assert best is not None
    text = (searched.out / "best.yaml").read_text()
    assert "# mine" in text
    assert "# the ancestor" in text
    assert "# counted once" in text
    written = yaml.safe_load(text)
    assert written["parameters"] == {"lambda": best.values["lambda"]}
    assert written["calibrate"] == {"method": "svc", "alpha": best.values["alpha"]}
    svc_dist.merge(searched.out / "best.yaml", tmp_path / "best", executor="inline", device="cpu", evaluate=False)
    report = json.loads((tmp_path / "best" / "merge_report.json").read_text())
    merged = next(one for one in report["dispositions"] if one["calibration"])
    assert merged["parameters"]["lambda"] == best.values["lambda"]
    assert merged["calibration"]["alpha"] == best.values["alpha"]


def test_the_same_again_runs_nothing_and_more_trials_only_what_is_new(searched: Search, passes: list[int]) -> None:
    first = searched.run()
    assert searched.run().trials == first.trials
    assert passes == [4, 2]
    more = searched.run(trials=7)
    assert more.trials[:6] == first.trials
    assert passes == [4, 2, 2]
    assert len(searched.runs) == 8


def interrupt_in(function: Callable[..., Any], call: int) -> Callable[..., Any]:
    """A function that is interrupted in one of its calls, before it does anything."""
    calls = []

    def interrupted(*given: Any, **named: Any) -> Any:
        calls.append(given)
        if len(calls) == call:
            raise Interrupted
        return function(*given, **named)

    return interrupted


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("score", 3),
        *(pytest.param(*one, marks=pytest.mark.slow) for one in (("run_merge", 2), ("score", 1), ("score", 6))),
    ],
)
def test_a_search_that_was_interrupted_ends_as_one_that_was_not(
    name: str, call: int, searched: Search, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(module, name, interrupt_in(getattr(module, name), call))
        with pytest.raises(Interrupted):
            searched.run()
    outcome = searched.run()
    assert searched.runs == [f"trial-{number:04d}" for number in range(6)], "each is scored once"
    shutil.rmtree(searched.out)
    whole = searched.run()
    assert [(one.values, one.metrics) for one in outcome.trials] == [(one.values, one.metrics) for one in whole.trials]


def test_models_stay_where_they_are_wanted(searched: Search) -> None:
    searched.run(trials=1, keep=True)
    kept = sorted(path.parent.name for path in searched.out.glob("merged/*/*/model.safetensors.index.json"))
    assert kept == ["trial-0000", "trial-0001"]


def test_a_metric_that_is_missing_is_asked_for_and_no_score_is_lost(searched: Search) -> None:
    with pytest.raises(RecipeError, match=r"2 metrics \(acc, loss\)"):
        searched.run(metric=None)
    searched.run()
    assert len(searched.runs) == len(set(searched.runs)) == 6


def test_a_trial_that_fails_is_said_and_the_search_goes_on(searched: Search) -> None:
    searched.script.write_text(SCORE + 'if sys.argv[1].endswith("2"): sys.exit("no memory")\n')
    outcome = searched.run()
    assert [one.number for one in outcome.trials if one.state is State.FAILED] == [2]
    assert "no memory" in (outcome.trials[2].error or "")
    searched.script.write_text(SCORE)
    assert searched.run().trials[2].state is State.FAILED
    assert searched.run(retry_failed=True).trials[2].state is State.SCORED


def test_more_trials_after_some_were_tried_again_are_a_pass_of_their_own(
    searched: Search, passes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    searched.script.write_text(SCORE + 'if sys.argv[1].endswith("2"): sys.exit("no memory")\n')
    searched.run()
    searched.script.write_text(SCORE)
    searched.run(retry_failed=True)
    with monkeypatch.context() as patched:
        patched.setattr(module, "score", interrupt_in(module.score, 2))
        with pytest.raises(Interrupted):
            searched.run(trials=7)
    assert len(searched.run(trials=7).ranked) == 8
    assert passes == [4, 2, 1, 2, 2]


def test_an_interrupted_pass_stays_whole_where_a_trial_of_it_is_tried_again(
    searched: Search, passes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    searched.script.write_text(SCORE + 'if sys.argv[1].endswith("1"): sys.exit("no memory")\n')
    with monkeypatch.context() as patched:
        patched.setattr(module, "score", interrupt_in(module.score, 3))
        with pytest.raises(Interrupted):
            searched.run(trials=3)
    searched.script.write_text(SCORE)
    assert len(searched.run(trials=3, retry_failed=True).ranked) == 4
    assert passes == [4, 4]


def test_a_trial_without_the_metric_is_one_without_a_score(searched: Search) -> None:
    searched.script.write_text(
        SCORE.replace('"loss": 1.0}', '"loss": 1.0} if "2" not in sys.argv[1][-4:] else {"loss": 1}')
    )
    outcome = searched.run()
    assert [one.number for one in outcome.trials if outcome.score(one) is None] == [2]
    assert "2: --metric acc is none of the metrics that the score command gives: loss" in outcome.table()
    searched.script.write_text(SCORE)
    assert len(searched.run(retry_failed=True).ranked) == 6


def test_scores_that_are_not_finite_end_a_search_early(searched: Search) -> None:
    searched.script.write_text("print('nan')")
    with pytest.raises(EvaluationError, match="none of the first 4 trials has a score; trial 0: its score is not fin"):
        searched.run(metric=None, trials=20)
    searched.script.write_text("print(1)")
    assert len(searched.run(metric=None, trials=3).ranked) == 4


def test_a_larger_number_of_trials_continues_whichever_sampler_that_is(searched: Search) -> None:
    searched.recipe.write_text(RECIPE.replace("[0.2, 1.0]", "{grid: [0.2, 1.0]}"))
    first = searched.run(trials=1)
    assert len(first.trials) == 2
    every = searched.run(trials=9)
    assert every.trials[:2] == first.trials
    assert len(every.trials) == 5


def test_a_search_ends_early_where_nothing_has_a_score(searched: Search) -> None:
    searched.script.write_text("raise SystemExit('broken')")
    with pytest.raises(EvaluationError, match=r"(?s)none of the first 4 trials has a score.*broken"):
        searched.run(trials=20)
    searched.script.write_text(SCORE)
    assert len(searched.run().ranked) == 6
    searched.script.write_text("raise SystemExit('broken')")
    with pytest.raises(EvaluationError):
        searched.run(trials=1, restart=True)
    assert not (searched.out / "best.yaml").exists(), "that of the search before it"


def test_values_that_do_not_go_together_are_a_trial_without_a_score(searched: Search) -> None:
    searched.recipe.write_text(
        RECIPE.replace("task_arithmetic", "della").replace("calibrate: svc", "# calibrate").split("search:")[0]
        + "parameters: {density: 0.5, epsilon: 0.1}\nsearch: {density: {grid: [0.05, 0.6]}}\n"
    )
    searched.script.write_text("print(1)")
    outcome = searched.run(metric=None, trials=None)
    assert [one.state for one in outcome.trials] == [State.SCORED, State.FAILED, State.SCORED]
    assert "density - epsilon must be above 0" in (outcome.trials[1].error or "")
    assert searched.run(metric=None, trials=None).trials == outcome.trials


def test_a_trial_whose_result_does_not_fit_is_one_without_a_score(searched: Search, passes: list[int]) -> None:
    recipe = RECIPE.split("search:")[0] + "dtype: float16\nsearch: {lambda: {grid: [0.4, 1.0e+9, 0.6]}}\n"
    searched.recipe.write_text(recipe)
    outcome = searched.run(trials=None)
    assert [one.state is State.SCORED for one in outcome.trials] == [True, True, False, True]
    assert "does not fit into float16" in (outcome.trials[2].error or "")
    assert passes == [4, 1, 1, 1, 1]
    assert searched.run(trials=None).trials == outcome.trials
    assert not (searched.out / "merged").exists()


def test_a_trial_that_cannot_be_planned_is_one_without_a_score(searched: Search, tmp_path: Path) -> None:
    name = "model.layers.0.mlp.up_proj"
    write_checkpoint(tmp_path / "base", {f"{name}.weight": torch.ones(8, 8)})
    for seed in (1, 2):
        data = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["up_proj"]}
        write_adapter(tmp_path / f"a{seed}", lora({name: (8, 8)}, seed=seed), data)
    searched.recipe.write_text(
        "base_model: base\nmodels: [{model: a1}, {model: a2}]\nmerge_method: task_arithmetic\noutput: adapter\n"
        "search: {calibrate: {grid: [magic, svc]}}\n"
    )
    searched.script.write_text("print(1)")
    outcome = searched.run(metric=None, trials=None)
    assert [one.state for one in outcome.trials] == [State.SCORED, State.FAILED, State.SCORED]
    assert "is not of low rank" in (outcome.trials[1].error or "")


def test_the_recipe_s_own_command_counts_where_none_is_given(searched: Search) -> None:
    searched.recipe.write_text(RECIPE.replace("python score.py", f"{sys.executable} {searched.script}"))
    assert len(searched.run(command=None, trials=1).ranked) == 2
    with pytest.raises(RecipeError, match="no local file, and it runs a command"):
        searched.run(command=None, trials=1, recipe=f"file://{searched.recipe}")


def test_a_recipe_that_was_changed_by_set_is_written_with_the_change(searched: Search) -> None:
    searched.run(trials=1, changes={"dtype": "float32"})
    assert yaml.safe_load((searched.out / "best.yaml").read_text())["dtype"] == "float32"


def test_what_is_refused_beforehand(searched: Search, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RecipeError, match="the command must have"):
        searched.run(command="score")
    with pytest.raises(RecipeError, match="holds a credential"):
        searched.run(command="HF_TOKEN=abcdefghi score {output}")
    with pytest.raises(RecipeError, match=r"outputs.*a search makes several results of its own"):
        searched.run(changes={"outputs": [{"path": "a"}]})
    with pytest.raises(RecipeError, match="values of a method and a calibration that the recipe names"):
        searched.run(changes={"merge_method": "auto"})
    nothing = shutil._ntuple_diskusage(10, 10, 100)  # type: ignore[attr-defined]
    monkeypatch.setattr(shutil, "disk_usage", lambda path: nothing)
    with pytest.raises(StorageError, match="do not fit into 95 B"):
        searched.run()
    assert not searched.runs
    request = SearchRequest(command=searched.command)
    with pytest.raises(OutputError, match="needs the models on a disk"):
        search(searched.recipe, "s3://bucket/found", request, Options(), {}, DEFAULT_ACCESS)
