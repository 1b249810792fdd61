"""The steps of the language model's benchmark by name, in order of value."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from benchmarks.quality.lm import steps
from benchmarks.quality.lm.data import TASKS
from benchmarks.quality.lm.grid import BRIEF, GRID, MAIN
from benchmarks.quality.lm.kinds import KINDS

#: The numbers of experts in a merge. ``--brief`` makes the first.
COUNTS = (3, len(TASKS))


def actions(work: Path, seeds: int, brief: bool, docs: Path, processes: int) -> dict[str, Callable[[], None]]:
    """The steps. ``--brief``: one set of three full fine-tunes, and sums with and without SVC."""
    counts = COUNTS[:1] if brief else COUNTS
    kinds = list(KINDS)[:1] if brief else list(KINDS)
    grid = BRIEF if brief else GRID
    all_seeds = range(1 if brief else seeds)

    def experts() -> None:
        steps.train_experts(work, all_seeds, kinds, counts[-1], processes)

    def alone() -> None:
        steps.answer_base(work)
        for seed in all_seeds:
            for kind in kinds:
                steps.answer_alone(work, seed, kind, counts[-1], processes)

    def validation() -> None:
        for kind in kinds:
            for count in counts:
                steps.merge_grid(work, kind, count, grid, processes)

    def main() -> None:
        for seed in all_seeds:
            for kind in kinds:
                for count in counts:
                    measured = MAIN if seed > 0 else grid
                    steps.merge_main(work, seed, kind, count, measured, processes)

    return {
        "data": lambda: steps.prepare_data(work),
        "experts": experts,
        "alone": alone,
        "grid": validation,
        "main": main,
        "write": lambda: steps.write_tables(work, all_seeds, docs),
    }
