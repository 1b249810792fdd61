"""The steps of the benchmark: each does what is not yet in the work folder, and nothing twice."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import cache
from pathlib import Path

from benchmarks.quality.data import TASKS, prepare
from benchmarks.quality.encoder import TaskData
from benchmarks.quality.experts import train
from benchmarks.quality.merging import Evaluator, Place, measure, merge, summary, write_recipe
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

PROCESSES = 2
_DESCENTS = ("wudi", "optmerge")  # take longest: first, or one of them would run at the end, beside nothing


def place(work: Path, seed: int, count: int) -> Place:
    """The first ``count`` experts of a seed."""
    folder, names = work / f"seed{seed}", tuple(TASKS)[:count]
    return Place(folder / f"K{count}", names, tuple(folder / "experts" / name for name in names))


def together(job: Callable[..., None], arguments: Iterable[tuple[object, ...]]) -> None:
    """Do jobs in processes side by side, each with one thread: more would spin on a shared machine."""
    with ProcessPoolExecutor(PROCESSES, initializer=_one_thread) as pool:
        for future in [pool.submit(job, *entry) for entry in arguments]:
            future.result()


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"


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
    """What the base says on every task, and each expert on its own."""
    together(_answer, [(work, seed, name) for name in ("base", *list(TASKS)[:count])])


def _answer(work: Path, seed: int, name: str) -> None:
    target = work / ("base" if name == "base" else f"seed{seed}/alone") / "test" / f"{name}.json"
    if not target.exists():
        checkpoint = base_model() if name == "base" else work / f"seed{seed}" / "experts" / name
        write(target, _evaluator(work).answers(checkpoint, "test", list(TASKS) if name == "base" else [name]))


def measure_all(work: Path, where: Place, variants: Iterable[Variant], parts: Sequence[str]) -> None:
    """Merge what is not known already, and write the answers on each of ``parts``."""
    groups = sorted(by_merge(variants), key=lambda group: group[0].method not in _DESCENTS)
    together(_measure, [(work, where, group, parts) for group in groups])


def _measure(work: Path, where: Place, variants: Sequence[Variant], parts: Sequence[str]) -> None:
    measure(variants, where, _evaluator(work), parts)


@cache
def _evaluator(work: Path) -> Evaluator:
    return Evaluator({name: TaskData.read(work / "data" / f"{name}.json") for name in TASKS})


def chosen(work: Path, count: int) -> list[Variant]:
    """Of each family and alpha the setting that is best on the first seed's validation texts, in the grid's order."""
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
    """The grid on the first seed's validation texts, where there is something to choose."""
    wanted = [variant for group in groups(grid) if len(group) > 1 for variant in group]
    measure_all(work, place(work, 0, count), wanted, ["validation"])


def merge_main(work: Path, seed: int, count: int, grid: Sequence[Variant]) -> None:
    """What the tables need on the test texts: the chosen setting of each family, and what the questions compare."""
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
    """What ``svc-dist inspect`` says of the experts, and SVC everywhere but in one part, for every part of it."""
    where = place(work, seed, count)
    inspection = where.folder / "inspection.json"
    if not inspection.exists():
        recipe = write_recipe(SCALED[:1], where)
        command = [sys.executable, "-m", "svc_dist", "inspect", str(recipe), "--json", "--slots", "1"]
        write(inspection, json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout))
    measure_all(work, where, layer_variants(), ["test"])


def time_merges(work: Path, count: int) -> None:
    """Seconds and memory of every method and of the calibrated sum, one after another with nothing beside them."""
    _one_thread()
    where = place(work, 0, count)
    timed = Place(where.folder / "timed", where.tasks, where.experts)
    for variant in chosen(work, count):
        if variant.alpha is not None and (variant.family, variant.alpha) != ("task arithmetic", "1/K"):
            continue
        target = timed.folder / "reports" / f"{variant.name}.json"
        if not target.exists():
            write(target, summary(merge([variant], timed)[0]))


def write_docs(work: Path, seeds: Sequence[int], docs: Path) -> None:
    """Tables into ``choosing.md``, figures beside it."""
    from benchmarks.quality import figures, tables

    found = tables.Results(work, seeds)
    tables.update(docs / "choosing.md", found)
    figures.draw(found, docs / "figures")
