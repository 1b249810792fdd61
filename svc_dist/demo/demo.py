"""The demo's steps, and the table of how well every model reads digits."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from svc_dist.demo.data import TASKS, Samples, load_digits
from svc_dist.demo.experts import Settings, accuracy, expert_folder, train_base, train_experts
from svc_dist.demo.model import load_model
from svc_dist.demo.recipes import WEIGHT, MergeFailedError, merge_command, merged_folder, run_merge, write_recipes
from svc_dist.errors import OutputError, StorageError
from svc_dist.storage.base import os_errors

STAMP = "demo.json"
_EARLIER = "done by an earlier run"
#: A row of the table: the model, its accuracy on each task, and its accuracy on upright digits.
Row = tuple[str, list[float], float]


def run_demo(folder: Path, console: Console, settings: Settings | None = None) -> None:
    """Train a base and its experts in ``folder``, merge them by every recipe there, and print each accuracy.

    Steps that an earlier run finished are not repeated. Raises MissingExtraError without scikit-learn, OutputError when
    ``folder`` holds anything but a demo with these settings, and MergeFailedError when a merge failed, after measuring
    the other models.
    """
    settings = settings or Settings()
    train, test = load_digits(settings.seed)
    _claim(folder, settings)
    console.print(
        f"The digits data set: {len(train)} to train on, {len(test)} to test on. Four departments send digits on grey "
        f"paper, each distorted in its own way: {', '.join(task.name for task in TASKS)}."
    )
    _step(
        console, f"Training a base on upright digits, {settings.base.steps} steps",
        lambda: None if train_base(folder, settings, train) else _EARLIER,
    )  # fmt: skip
    _step(
        console, f"Fine-tuning an expert for each department, {settings.expert.steps} steps",
        lambda: None if train_experts(folder, settings, train) else _EARLIER,
    )  # fmt: skip
    merges: list[tuple[str, Path]] = []
    failures: list[MergeFailedError] = []

    def merge(recipe: Path) -> str | None:
        try:
            run_merge(recipe, folder)
        except MergeFailedError as error:
            failures.append(error)
            return "failed"
        merges.append((recipe.stem, merged_folder(recipe, folder)))
        return None

    for recipe in write_recipes(folder):
        _step(console, shlex.join(["svc-dist", *merge_command(recipe, folder)]), partial(merge, recipe))
    checkpoints = [("base", folder / "base")]
    checkpoints += [(f"expert {task.name}", expert_folder(folder, task.name)) for task in TASKS]
    console.print(
        _table(_measure(checkpoints, test), _measure(merges, test)),
        f"Accuracy in percent on {len(test)} test digits that no training has seen, one seed, a fixed number of steps: "
        "a difference of a few points is noise. The average is over the four departments; [i]upright[/i] shows how "
        "much of the base's skill remains. In the column of its department, an expert sets the target. "
        f"[i]task_arithmetic[/i] adds {WEIGHT} of what each expert learned, [i]sum[/i] all of it: with SVC, both work.",
    )
    console.print(_next_steps(folder), soft_wrap=True, markup=False, highlight=False)
    for failure in failures[1:]:
        console.print(f"error: {failure}", soft_wrap=True, markup=False, highlight=False)
    if failures:
        raise failures[0]


def _claim(folder: Path, settings: Settings) -> None:
    """Mark the folder as a demo with these settings. Raises OutputError when it holds anything else."""
    stamp = folder / STAMP
    with os_errors(f"cannot use the folder {folder}"):
        stamp.exists()  # the name may be too long
    content = {"settings": asdict(settings), "tasks": [task.name for task in TASKS]}
    if stamp.exists():
        if json.loads(stamp.read_text()) != content:
            raise OutputError(
                f"{folder} holds a demo with other settings (see {stamp})",
                "name another folder, or remove this one",
            )
        return
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise OutputError(f"{folder} exists and holds no demo", "name a new or empty folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        stamp.write_text(json.dumps(content, indent=2) + "\n")
    except OSError as error:
        raise StorageError(f"cannot write {stamp}: {error.strerror}", "name another folder") from None


def _step(console: Console, title: str, work: Callable[[], str | None]) -> None:
    """Do a step of the demo, and print how it ended: what ``work`` returns, or else its seconds."""
    started = time.monotonic()
    with console.status(escape(title)):
        ending = work()
    ending = ending or f"{time.monotonic() - started:.1f} s"
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
    first, mine, output = (
        shlex.quote(str(folder / name))
        for name in ("recipes/task_arithmetic_svc.yaml", "recipes/mine.yaml", "merged/mine")
    )
    return f"""
The recipes are in {folder / "recipes"}, the merged models in {folder / "merged"}. Try another one:
  cp {first} {mine}    # and edit its alpha, or a weight
  svc-dist plan {mine}
  svc-dist merge {mine} {output}
  svc-dist verify {output} --deep
  svc-dist demo {shlex.quote(str(folder))}    # merges the new recipes, and measures all"""
