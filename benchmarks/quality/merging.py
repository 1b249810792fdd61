"""One merge with the command line, and the answers of the merged model on every task."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from benchmarks.quality.results import write
from benchmarks.quality.variants import Variant

#: The keys of a matrix in the report that the benchmark stores.
_KEPT = ("tensor", "gamma_min", "gamma_median", "gamma_max", "gamma_by_energy", "inflation_by_expert", "ratio_median",
         "ratio_max", "at_floor", "sigma", "gamma", "inflation", "kept_rank")  # fmt: skip


@dataclass(frozen=True)
class Place:
    """A seed's experts of some tasks, their base, and the folder for merges of them. ``keys``: more keys of recipes."""

    base: Path
    folder: Path
    tasks: tuple[str, ...]
    experts: tuple[Path, ...]
    keys: Mapping[str, Any] = field(default_factory=dict)

    def file(self, variant: Variant, part: str) -> Path:
        """The file with the answers of a variant on one split."""
        return self.folder / part / f"{variant.name}.json"


class Evaluator(Protocol):
    """Computes what a checkpoint answers, or how well, on tasks."""

    def answers(self, checkpoint: Path, part: str, names: Sequence[str]) -> dict[str, Any]:
        """For each task, the score of every text of one split, from 0 to 1."""


def merge(variants: Sequence[Variant], place: Place) -> list[Path]:
    """Merge with ``svc-dist merge``, in this process, and return the folders of the merged models.

    ``variants``: one variant, or several that differ in parameters and calibrations only and are merged in one pass.
    """
    from svc_dist.cli.app import app

    output, results = outputs(variants, place)
    if not all((result / "model.safetensors.index.json").exists() for result in results):
        recipe = write_recipe(variants, place)
        app(["merge", str(recipe), str(output), "--slots", "1", "--threads-per-unit", "1"], standalone_mode=False)
    return results


def outputs(variants: Sequence[Variant], place: Place) -> tuple[Path, list[Path]]:
    """The folder that variants are merged into, and the folders of the merged models."""
    output = place.folder / "merged" / variants[0].path
    if len(variants) < 2:
        return output, [output]
    which = hashlib.sha256("\n".join(variant.path for variant in variants).encode()).hexdigest()[:8]
    output = output.with_name(f"{output.name}-{which}")
    return output, [output / variant.path for variant in variants]


def write_recipe(variants: Sequence[Variant], place: Place) -> Path:
    """Write the recipe of a merge to a file."""
    recipe = place.folder / "recipes" / f"{variants[0].name}.yaml"
    recipe.parent.mkdir(parents=True, exist_ok=True)
    experts = [path.absolute() for path in place.experts]
    recipe.write_text(variants[0].recipe(place.base, experts, variants, place.keys), encoding="utf-8")
    return recipe


def summary(output: Path) -> dict[str, Any]:
    """From the report of a merge: seconds of computing, memory of the largest unit, and every calibrated matrix."""
    from svc_dist.api import make_plan

    report = json.loads((output / "merge_report.json").read_text(encoding="utf-8"))
    plan = make_plan(output / "merge_report.json", threads_per_unit=1)
    return {
        "seconds": report["unit_seconds"],
        "memory": max(unit.memory for unit in plan.units),
        "matrices": [{key: entry[key] for key in _KEPT if key in entry} for entry in report["matrices"]],
    }


def measure(variants: Sequence[Variant], place: Place, evaluator: Evaluator, parts: Sequence[str]) -> None:
    """Merge the variants without answers in one pass, write the answers on each of ``parts``, remove the weights.

    ``variants``: as in ``merge``.
    """
    wanted = [variant for variant in variants if not all(place.file(variant, part).exists() for part in parts)]
    if not wanted:
        return
    folder, _ = outputs(wanted, place)
    for variant, output in zip(wanted, merge(wanted, place), strict=True):
        write(place.folder / "reports" / f"{variant.name}.json", summary(output))
        for part in parts:
            write(place.file(variant, part), evaluator.answers(output, part, place.tasks))
    shutil.rmtree(folder)
