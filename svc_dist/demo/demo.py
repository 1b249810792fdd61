"""The demo's steps, and the table of what every model can read."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from svc_dist.demo.data import TASKS, Samples, load_digits
from svc_dist.demo.experts import Settings, accuracy, expert_folder, train_base, train_experts
from svc_dist.demo.model import load_model
from svc_dist.demo.recipes import WEIGHT, MergeFailedError, merge_command, merged_folder, run_merge, write_recipes
from svc_dist.errors import OutputError, StorageError

STAMP = "demo.json"
#: A row of the table: what the model is, its accuracy on each task, and on upright digits.
Row = tuple[str, list[float], float]


def run_demo(folder: Path, console: Console, settings: Settings | None = None) -> None:
    """Train a base and its experts in ``folder``, merge them by every recipe there, and print what each model reads.

    What an earlier run finished is kept. Raises MissingExtraError without scikit-learn, OutputError when ``folder``
    holds something else than a demo with these settings, and MergeFailedError, after measuring all that did succeed,
    when a merge failed.
    """
    settings = settings or Settings()
    train, test = load_digits(settings.seed)
    _claim(folder, settings)
    console.print(
        f"The digits data set: {len(train)} to train on, {len(test)} to test on. Four departments send digits on grey "
        f"paper, each distorted in its own way: {', '.join(task.name for task in TASKS)}."
    )
    with _step(console, f"Training a base on upright digits, {settings.base.steps} steps") as step:
        if not train_base(folder, settings, train):
            step.ending = "done by an earlier run"
    with _step(console, f"Fine-tuning an expert for each department, {settings.expert.steps} steps") as step:
        if not train_experts(folder, settings, train):
            step.ending = "done by an earlier run"

    merges, failures = [], []
    for recipe in write_recipes(folder):
        with _step(console, shlex.join(["svc-dist", *merge_command(recipe, folder)])) as step:
            try:
                run_merge(recipe, folder)
                merges.append((recipe.stem, merged_folder(recipe, folder)))
            except MergeFailedError as error:
                failures.append(error)
                step.ending = "failed"

    checkpoints = [("base", folder / "base")]
    checkpoints += [(f"expert {task.name}", expert_folder(folder, task.name)) for task in TASKS]
    console.print(
        _table(_measure(checkpoints, test), _measure(merges, test)),
        f"Accuracy in percent on {len(test)} test digits that no training has seen, one seed, a fixed number of steps: "
        "a difference of a few points is noise. The average is over the four departments; [i]upright[/i] is what is "
        "left of what the base could do. An expert is the mark to reach in its own column. [i]task_arithmetic[/i] adds "
        f"{WEIGHT} of what each expert learned, [i]sum[/i] all of it: calibrated by SVC, either will do.",
    )
    console.print(_next_steps(folder), soft_wrap=True, markup=False, highlight=False)
    for failure in failures[1:]:
        console.print(f"error: {failure}", soft_wrap=True, markup=False, highlight=False)
    if failures:
        raise failures[0]


def _claim(folder: Path, settings: Settings) -> None:
    """Make the folder ours, or see that it is and that its checkpoints come from the same settings."""
    stamp = folder / STAMP
    wanted = {"settings": asdict(settings), "tasks": [task.name for task in TASKS]}
    if stamp.exists():
        if json.loads(stamp.read_text()) != wanted:
            raise OutputError(
                f"{folder} holds a demo with other settings (they are in {stamp})", "give another folder, or remove it"
            )
        return
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise OutputError(f"{folder} exists and holds no demo", "give the name of a folder that is new or empty")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        stamp.write_text(json.dumps(wanted, indent=2) + "\n")
    except OSError as error:
        raise StorageError(f"cannot write {stamp}: {error.strerror}", "give the name of another folder") from None


@dataclass
class _Step:
    """How a step of the demo ended; its seconds unless it says otherwise."""

    ending: str | None = None


@contextmanager
def _step(console: Console, title: str) -> Iterator[_Step]:
    started = time.monotonic()
    step = _Step()
    with console.status(escape(title)):
        yield step
    ending = step.ending or f"{time.monotonic() - started:.1f} s"
    console.print(f"- {title}: {ending}", soft_wrap=True, markup=False, highlight=False)


def _measure(models: list[tuple[str, Path]], test: Samples) -> list[Row]:
    views = [test.seen_as(task.view) for task in TASKS]
    rows = []
    for title, folder in models:
        model = load_model(folder)
        rows.append((title, [accuracy(model, view) for view in views], accuracy(model, test)))
    return rows


def _table(inputs: list[Row], merges: list[Row]) -> Table:
    table = Table(title="What each model reads")
    # Narrow headings and one column that folds: the table fits a terminal of 80 columns.
    table.add_column("model", overflow="fold")
    for heading in (*(task.name for task in TASKS), "average", "upright"):
        table.add_column(heading.replace(" ", "\n"), justify="right", no_wrap=True)
    for section in (inputs, merges):
        for title, tasks, upright in section:
            figures = [*tasks, sum(tasks) / len(tasks), upright]
            table.add_row(escape(title), *(f"{100 * figure:.1f}" for figure in figures))
        table.add_section()
    return table


def _next_steps(folder: Path) -> str:
    mine = shlex.quote(str(folder / "recipes" / "mine.yaml"))
    output = shlex.quote(str(folder / "merged" / "mine"))
    first = shlex.quote(str(folder / "recipes" / "task_arithmetic_svc.yaml"))
    return f"""
The recipes are in {folder / "recipes"}, the merged models in {folder / "merged"}. To try another one:
  cp {first} {mine}    # and edit its alpha, or a weight
  svc-dist plan {mine}
  svc-dist merge {mine} {output}
  svc-dist verify {output} --deep
  svc-dist demo {shlex.quote(str(folder))}    # measures every recipe in the folder, merging those that are new"""
