"""The steps of the language model's benchmark. Each computes only the results that the work folder lacks."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

from benchmarks.quality.lm.base import base_model
from benchmarks.quality.lm.data import TASKS, Item, prepare, read
from benchmarks.quality.lm.grid import ALONE, GRID, NORM_MATCHED, PLAIN_SUM, groups, norm_ratios
from benchmarks.quality.lm.kinds import KINDS
from benchmarks.quality.lm.training import Budget, train
from benchmarks.quality.merging import Place, measure, merge
from benchmarks.quality.processes import together
from benchmarks.quality.results import choose, write
from benchmarks.quality.variants import Variant, by_merge

ABILITIES = "abilities"
STEPS = 60
_SLOW = ("wudi", "optmerge")  # first; at the end, one of them would leave a process idle


def experts_folder(work: Path, seed: int, kind: str) -> Path:
    return work / f"seed{seed}" / kind


def place(work: Path, seed: int, kind: str, count: int) -> Place:
    """The merges of the first ``count`` experts of a seed and a kind."""
    folder, names = experts_folder(work, seed, kind), tuple(TASKS)[:count]
    experts = tuple(folder / "experts" / name for name in names)
    return Place(base_model(work), folder / f"K{count}", names, experts)


def prepare_data(work: Path) -> None:
    for name in (*TASKS, ABILITIES):
        prepare(name, work)


def train_experts(work: Path, seeds: Sequence[int], kinds: Sequence[str], count: int, processes: int) -> None:
    """Train what is missing: first one seed of every kind, then the other seeds."""
    wanted = [
        (work, seed, kind, name)
        for seed in seeds
        for kind in kinds
        for name in list(TASKS)[:count]
        if not _trained(work, seed, kind, name).exists()
    ]
    together(_train, wanted, processes)


def _trained(work: Path, seed: int, kind: str, name: str) -> Path:
    return experts_folder(work, seed, kind) / "experts" / name


def _train(work: Path, seed: int, kind: str, name: str) -> None:
    train(
        base_model(work), read(name, work)["train"], KINDS[kind], seed, Budget(STEPS),
        _trained(work, seed, kind, name), f"{name}, {kind}, seed {seed}",
    )  # fmt: skip


class Evaluator:
    """Computes the scores of checkpoints; holds the model and all items."""

    def __init__(self, work: Path) -> None:
        from benchmarks.quality.lm import model

        self.base = base_model(work)
        self.model = model.load(self.base)
        self.tasks = {name: read(name, work) for name in TASKS}
        self.abilities = read(ABILITIES, work)

    def answers(self, checkpoint: Path, part: str, names: Sequence[str]) -> dict[str, list[float]]:
        """Scores of a split of the tasks; of ``abilities``: of what the base can do."""
        from benchmarks.quality.lm import model

        model.put(self.model, checkpoint)
        if part == ABILITIES:
            scores = {"prose": model.loss, "facts": model.exact, "instructions": model.share}
            return model.scores(self.model, self.abilities, scores)
        items: dict[str, Sequence[Item]] = {name: self.tasks[name][part] for name in names}
        by = {name: model.exact if TASKS[name].exact else model.share for name in names}
        return model.scores(self.model, items, by)


@cache
def _evaluator(work: Path) -> Evaluator:
    return Evaluator(work)


def answer_base(work: Path) -> None:
    """Write the base's scores on every task, and on what it can do."""
    together(_answer_base, [(work, part) for part in ("test", ABILITIES)], 1)


def _answer_base(work: Path, part: str) -> None:
    target = work / "base" / part / "base.json"
    if not target.exists():
        write(target, _evaluator(work).answers(base_model(work), part, list(TASKS)))


def answer_alone(work: Path, seed: int, kind: str, count: int, processes: int) -> None:
    """Write the scores of each expert, merged alone into the base, on its own task, and on what the base can do."""
    together(_answer_alone, [(work, seed, kind, name) for name in list(TASKS)[:count]], processes)


def _answer_alone(work: Path, seed: int, kind: str, name: str) -> None:
    folder = experts_folder(work, seed, kind)
    where = Place(base_model(work), folder / "alone" / name, (name,), (folder / "experts" / name,))
    measure([ALONE], where, _evaluator(work), ("test", ABILITIES))


def measure_all(work: Path, where: Place, variants: Iterable[Variant], parts: Sequence[str], processes: int) -> None:
    """Merge the variants without scores, and write the scores on each of ``parts``."""
    ordered = sorted(by_merge(variants), key=lambda group: group[0].method not in _SLOW)
    together(_measure, [(work, where, group, parts) for group in ordered], processes)


def _measure(work: Path, where: Place, variants: Sequence[Variant], parts: Sequence[str]) -> None:
    measure(variants, where, _evaluator(work), parts)


def merge_grid(work: Path, kind: str, count: int, grid: Sequence[Variant], processes: int) -> None:
    """Measure the settings of each method on the first seed's validation items."""
    wanted = [variant for group in groups(grid) if len(group) > 1 for variant in group]
    measure_all(work, place(work, 0, kind, count), wanted, ["validation"], processes)


def chosen(work: Path, kind: str, count: int, grid: Sequence[Variant] = GRID) -> list[Variant]:
    """For each row of the tables, the best setting on the first seed's validation items."""
    folder = place(work, 0, kind, count).folder
    best = (group[0] if len(group) == 1 else choose(group, folder) for group in groups(grid))
    return [variant for variant in best if variant is not None]


def merge_main(work: Path, seed: int, kind: str, count: int, grid: Sequence[Variant], processes: int) -> None:
    """Measure the chosen settings on the test items, and the sum at the norms that the chosen SVC gives it."""
    where = place(work, seed, kind, count)
    wanted = chosen(work, kind, count, grid)
    measure_all(work, where, wanted, ["test", ABILITIES], processes)
    calibrated = next((v for v in wanted if v.method == "task_arithmetic" and v.alpha is not None), None)
    if calibrated is not None:
        scales = _norm_ratios(where, calibrated)
        measure_all(work, where, [replace(NORM_MATCHED, scales=scales)], ["test", ABILITIES], 1)


def _norm_ratios(where: Place, calibrated: Variant) -> dict[str, float]:
    file = where.folder / "norm_ratios" / f"{calibrated.name}.json"
    if not file.exists():
        outputs = [*merge([calibrated], where), *merge([PLAIN_SUM], where)]
        write(file, norm_ratios(where.base, *outputs))
        for output in outputs:
            shutil.rmtree(output)
    ratios: dict[str, float] = json.loads(file.read_text(encoding="utf-8"))
    return ratios


def write_tables(work: Path, seeds: Sequence[int], docs: Path) -> None:
    """Write the tables of what has been measured, into the work folder and into the marked places of the page."""
    from benchmarks.quality.lm import tables

    tables.write_tables(tables.Results(work, seeds), work / "tables.md", docs / "choosing.md")
