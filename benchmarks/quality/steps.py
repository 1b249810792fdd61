"""The steps of the benchmark. Each step computes only the results that are missing in the work folder."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

from benchmarks.quality.data import TASKS, prepare
from benchmarks.quality.encoder import Evaluator, TaskData
from benchmarks.quality.experts import train
from benchmarks.quality.merging import Place, measure, merge, summary, write_recipe
from benchmarks.quality.processes import one_thread, together
from benchmarks.quality.results import choose, write
from benchmarks.quality.sources import base_model
from benchmarks.quality.variants import (
    GRID,
    MATRICES_SCALED,
    NORM_MATCHED,
    SCALED,
    TSV_M_DEFAULT,
    Variant,
    by_merge,
    layer_variants,
    norm_matched,
)

_DESCENTS = ("wudi", "optmerge")  # slowest, so they run first; at the end, one of them would leave a process idle


def place(work: Path, seed: int, count: int) -> Place:
    """The merges of the first ``count`` experts of a seed."""
    folder, names = work / f"seed{seed}", tuple(TASKS)[:count]
    return Place(base_model(), folder / f"K{count}", names, tuple(folder / "experts" / name for name in names))


def prepare_data(work: Path) -> None:
    together(_prepare, [(name, work) for name in TASKS])


def _prepare(name: str, work: Path) -> None:
    prepare(TASKS[name], work)


def train_experts(work: Path, seed: int, count: int = len(TASKS)) -> None:
    folder = work / f"seed{seed}" / "experts"
    wanted = [name for name in list(TASKS)[:count] if not (folder / name / "model.safetensors").exists()]
    together(_train, [(name, work, seed) for name in wanted])


def _train(name: str, work: Path, seed: int) -> None:
    train(TaskData.read(work / "data" / f"{name}.json"), seed, work / f"seed{seed}" / "experts" / name)


def answer_unmerged(work: Path, seed: int, count: int = len(TASKS)) -> None:
    """Write the answers of the base on every task, and of each expert on its own task."""
    together(_answer, [(work, seed, name) for name in ("base", *list(TASKS)[:count])])


def _answer(work: Path, seed: int, name: str) -> None:
    target = work / ("base" if name == "base" else f"seed{seed}/alone") / "test" / f"{name}.json"
    if not target.exists():
        checkpoint = base_model() if name == "base" else work / f"seed{seed}" / "experts" / name
        write(target, _evaluator(work).answers(checkpoint, "test", list(TASKS) if name == "base" else [name]))


def measure_all(work: Path, where: Place, variants: Iterable[Variant], parts: Sequence[str]) -> None:
    """Merge the variants without answers, and write the answers on each of ``parts``."""
    groups = sorted(by_merge(variants), key=lambda group: group[0].method not in _DESCENTS)
    together(_measure, [(work, where, group, parts) for group in groups])


def _measure(work: Path, where: Place, variants: Sequence[Variant], parts: Sequence[str]) -> None:
    measure(variants, where, _evaluator(work), parts)


@cache
def _evaluator(work: Path) -> Evaluator:
    return Evaluator({name: TaskData.read(work / "data" / f"{name}.json") for name in TASKS})


def chosen(work: Path, count: int) -> list[Variant]:
    """For each family and alpha, the best setting on the first seed's validation texts, in the grid's order."""
    folder = place(work, 0, count).folder
    best = (group[0] if len(group) == 1 else choose(group, folder) for group in groups(GRID))
    return [variant for variant in best if variant is not None]


def groups(grid: Iterable[Variant]) -> list[list[Variant]]:
    """The settings of each family and alpha."""
    found: dict[tuple[str, str | None], list[Variant]] = {}
    for variant in grid:
        found.setdefault((variant.family, variant.alpha), []).append(variant)
    return list(found.values())


def merge_grid(work: Path, count: int, grid: Sequence[Variant]) -> None:
    """Measure the grid on the first seed's validation texts, for families with more than one setting."""
    wanted = [variant for group in groups(grid) if len(group) > 1 for variant in group]
    measure_all(work, place(work, 0, count), wanted, ["validation"])


def merge_main(work: Path, seed: int, count: int, grid: Sequence[Variant]) -> None:
    """Measure what the tables need on the test texts: the chosen setting of each family, and the comparisons."""
    where = place(work, seed, count)
    wanted = [variant for variant in chosen(work, count) if variant in grid]
    wanted += [variant for variant in [*SCALED, *MATRICES_SCALED, *TSV_M_DEFAULT] if variant not in wanted]
    measure_all(work, where, wanted, ["test"])
    _merge_norm_matched(work, where)


def _merge_norm_matched(work: Path, where: Place) -> None:
    file = where.folder / "norm_matched.json"
    if not file.exists():
        (calibrated,) = merge(SCALED[:1], where)
        write(file, norm_matched(base_model(), where.experts, calibrated))
    scales = json.loads(file.read_text(encoding="utf-8"))
    measure_all(work, where, [replace(NORM_MATCHED, scales=scales)], ["test"])


def merge_layers(work: Path, seed: int, count: int) -> None:
    """Run ``svc-dist inspect`` on the experts, and measure SVC without one part of one layer, for every part."""
    where = place(work, seed, count)
    inspection = where.folder / "inspection.json"
    if not inspection.exists():
        recipe = write_recipe(SCALED[:1], where)
        command = [sys.executable, "-m", "svc_dist", "inspect", str(recipe), "--json", "--slots", "1"]
        write(inspection, json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout))
    measure_all(work, where, layer_variants(), ["test"])


def time_merges(work: Path, count: int) -> None:
    """Measure seconds and memory of every method and of the calibrated sum, one after the other."""
    one_thread()
    where = place(work, 0, count)
    timed = Place(where.base, where.folder / "timed", where.tasks, where.experts)
    for variant in chosen(work, count):
        if variant.alpha is not None and (variant.family, variant.alpha) != ("task arithmetic", "1/K"):
            continue
        target = timed.folder / "reports" / f"{variant.name}.json"
        if not target.exists():
            write(target, summary(merge([variant], timed)[0]))


def write_docs(work: Path, seeds: Sequence[int], docs: Path) -> None:
    """Write the tables into ``choosing.md``, and the figures."""
    from benchmarks.quality import figures, tables

    found = tables.Results(work, seeds)
    tables.update(docs / "choosing.md", found)
    figures.draw(found, docs / "figures")
