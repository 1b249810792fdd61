"""``python -m benchmarks.quality``: run all steps, or the given ones. Results in the work folder are reused."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks.quality import steps
from benchmarks.quality.data import TASKS
from benchmarks.quality.sources import SourceMissingError
from benchmarks.quality.variants import GRID, MAIN

ALL = len(TASKS)
BRIEF = ("data", "experts", "alone", "grid", "main", "write")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("benchmark-work/quality"), help="folder for all results")
    parser.add_argument("--seeds", type=int, default=3, help="number of sets of experts")
    parser.add_argument("--brief", action="store_true", help="one set of all experts, the main methods: half an hour")
    parser.add_argument("--docs", type=Path, default=Path("docs"), help="folder for tables and figures")
    parser.add_argument("steps", nargs="*", help="steps by name; default: all")
    chosen = parser.parse_args()
    work = chosen.work.absolute()
    seeds = range(1 if chosen.brief else chosen.seeds)
    grid = MAIN if chosen.brief else GRID

    def each(job: Callable[..., None], *arguments: object) -> None:
        for seed in seeds:
            job(work, seed, *arguments)

    actions: dict[str, Callable[[], None]] = {
        "data": lambda: steps.prepare_data(work),
        "experts": lambda: each(steps.train_experts),
        "alone": lambda: each(steps.answer_unmerged),
        "grid": lambda: steps.merge_grid(work, ALL, grid),
        "main": lambda: each(steps.merge_main, ALL, grid),
        "four-grid": lambda: steps.merge_grid(work, 4, MAIN),
        "four": lambda: each(steps.merge_main, 4, MAIN),
        "layers": lambda: steps.merge_layers(work, 0, ALL),
        "timings": lambda: steps.time_merges(work, ALL),
        "write": lambda: steps.write_docs(work, seeds, chosen.docs),
    }
    unknown = set(chosen.steps) - set(actions)
    if unknown:
        parser.error(f"unknown step: {', '.join(sorted(unknown))}; the steps are {', '.join(actions)}")
    names = chosen.steps or (BRIEF if chosen.brief else tuple(actions))
    if "write" in names and not (chosen.docs / "choosing.md").is_file():
        parser.error(f"no choosing.md in {chosen.docs}: --docs must be the folder of the page whose tables are updated")
    try:
        for name in names:
            print(f"{name} ...", flush=True)
            actions[name]()
    except SourceMissingError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
