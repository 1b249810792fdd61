"""The recipes of the demo, and their merges."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from svc_dist.demo.data import TASKS
from svc_dist.demo.experts import expert_folder
from svc_dist.errors import ExitCode, SvcDistError
from svc_dist.recipe.writing.json_schema import modeline

_HEAD = """\
{modeline}
# {about}
# Try it: svc-dist merge {name}.yaml ../merged/{name}
base_model: ../base
models:
{models}
merge_method: {method}
{calibrate}dtype: float32
max_shard_size: 60KB
"""

_CALIBRATE = """\
calibrate:          # counts directions that experts share once, not once per expert
  method: svc
  alpha: {alpha}       # limits amplification to 1/alpha; 1 only damps; default 1/(number of experts)
"""

#: The usual weight where no validation data help to choose one.
WEIGHT = 0.4


class MergeFailedError(SvcDistError):
    """The merge of one of the demo's recipes failed; ends the demo with the exit code of that merge."""


def write_recipes(folder: Path) -> list[Path]:
    """Write the demo's recipes to ``folder/recipes``, and return all recipes there, the demo's first.

    An existing recipe stays as it is: a user may have edited it.
    """
    recipes = folder / "recipes"
    recipes.mkdir(exist_ok=True)
    written = []
    for name, text in _texts(folder).items():
        path = recipes / f"{name}.yaml"
        if not path.exists():
            path.write_text(text)
        written.append(path)
    return written + sorted(path for path in recipes.glob("*.yaml") if path not in written)


def merge_command(recipe: Path, folder: Path) -> list[str]:
    """The arguments of ``svc-dist`` that merge a recipe into ``folder/merged``."""
    return ["merge", str(recipe), str(merged_folder(recipe, folder))]


def merged_folder(recipe: Path, folder: Path) -> Path:
    """The folder of a recipe's merged model."""
    return folder / "merged" / recipe.stem


def run_merge(recipe: Path, folder: Path) -> None:
    """Merge a recipe by the command that a user would type, in another process. Raises MergeFailedError."""
    command = [sys.executable, "-m", "svc_dist", *merge_command(recipe, folder)]
    merge = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if merge.returncode != ExitCode.DONE:
        error = MergeFailedError(f"merging {recipe} ended with exit code {merge.returncode}:", merge.stdout.strip())
        # A negative code is the number of the signal that killed the process.
        error.exit_code = merge.returncode if merge.returncode > 0 else ExitCode.INTERNAL
        raise error


def _texts(folder: Path) -> dict[str, str]:
    calibrate = _CALIBRATE.format(alpha=1 / len(TASKS))
    weighted, whole = "The base plus the weighted sum of the task deltas.", "The base plus the sum of the task deltas."
    merges = {
        "averaging": ("The mean of the experts.", "linear", None, ""),
        "task_arithmetic": (weighted, "task_arithmetic", WEIGHT, ""),
        "task_arithmetic_svc": ("The same sum, then its singular values calibrated by SVC.",
                                "task_arithmetic", WEIGHT, calibrate),
        "sum": (whole, "task_arithmetic", 1.0, ""),
        "sum_svc": ("The same sum, then its singular values calibrated by SVC.", "task_arithmetic", 1.0, calibrate),
        "swudi": ("Least interference with every expert, in closed form.", "swudi", None, ""),
    }  # fmt: skip
    return {name: _text(folder, name, *merge) for name, merge in merges.items()}


def _text(folder: Path, name: str, about: str, method: str, weight: float | None, calibrate: str) -> str:
    models = []
    for task in TASKS:
        models.append(f"  - model: ../{expert_folder(folder, task.name).relative_to(folder).as_posix()}")
        if weight is not None:
            models.append(f"    parameters: {{weight: {weight}}}")
    return _HEAD.format(
        modeline=modeline(), about=about, name=name, models="\n".join(models), method=method, calibrate=calibrate
    )
