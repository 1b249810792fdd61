"""The steps of the encoder's benchmark by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from benchmarks.quality import steps
from benchmarks.quality.data import TASKS
from benchmarks.quality.variants import GRID, MAIN

ALL = len(TASKS)
BRIEF = ("data", "experts", "alone", "grid", "main", "write")


def actions(work: Path, sets: int, brief: bool, docs: Path) -> dict[str, Callable[[], None]]:
    seeds = range(1 if brief else sets)
    grid = MAIN if brief else GRID

    def each(job: Callable[..., None], *arguments: object) -> None:
        for seed in seeds:
            job(work, seed, *arguments)

    return {
        "data": lambda: steps.prepare_data(work),
        "experts": lambda: each(steps.train_experts),
        "alone": lambda: each(steps.answer_unmerged),
        "grid": lambda: steps.merge_grid(work, ALL, grid),
        "main": lambda: each(steps.merge_main, ALL, grid),
        "four-grid": lambda: steps.merge_grid(work, 4, MAIN),
        "four": lambda: each(steps.merge_main, 4, MAIN),
        "layers": lambda: steps.merge_layers(work, 0, ALL),
        "timings": lambda: steps.time_merges(work, ALL),
        "write": lambda: steps.write_docs(work, seeds, docs),
    }
