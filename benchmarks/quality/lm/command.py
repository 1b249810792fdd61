"""The steps of the language model's benchmark by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.quality.lm import steps
from benchmarks.quality.lm.data import TASKS
from benchmarks.quality.lm.grid import (
    BRIEF,
    CALIBRATED,
    CANDIDATES,
    FIRST,
    ISO_C,
    MAIN,
    MAIN_LORA,
    OF_SPARSE,
    REST,
    SECOND,
    SWUDI,
    SWUDI_A,
    SWUDI_SCALED,
    TIES,
    TSV_M,
)
from benchmarks.quality.variants import Variant

#: The numbers of experts in a merge. ``--brief`` makes the first.
FEW, ALL = 3, len(TASKS)
#: The kinds whose experts share what is random.
OF_ONE_SCRIPT = ("full", "lora", "sparse")


@dataclass(frozen=True)
class Stage:
    """Rows of the tables for the first ``count`` experts of a set and a kind."""

    seed: int
    kind: str
    count: int
    rows: Sequence[Variant]


#: In order of value: a run that is stopped has answered the first questions.
STAGES = [
    Stage(0, "full", FEW, [*FIRST, *TSV_M, *SWUDI, *TIES]),
    Stage(0, "lora", FEW, [*FIRST, *TSV_M, *SWUDI, *SWUDI_SCALED]),
    Stage(0, "sparse", FEW, [*FIRST, *SWUDI, *TSV_M]),
    Stage(1, "full", FEW, MAIN),
    Stage(2, "full", FEW, MAIN),
    Stage(0, "full", ALL, [*FIRST, *SWUDI, *TSV_M]),
    Stage(0, "lora-apart", FEW, MAIN_LORA),
    Stage(0, "lora", FEW, CALIBRATED),
    Stage(0, "full", FEW, [*ISO_C, *SWUDI_A, *CALIBRATED, *REST, *CANDIDATES]),
    Stage(0, "sparse", FEW, OF_SPARSE),
    *(Stage(seed, kind, FEW, rows) for seed in (1, 2) for kind, rows in (("lora", MAIN_LORA), ("sparse", MAIN))),
    Stage(0, "lora", ALL, MAIN_LORA),
    Stage(0, "sparse", ALL, MAIN),
    Stage(1, "lora-apart", FEW, MAIN_LORA),
    Stage(0, "sparse", FEW, [*TIES, *ISO_C]),
    Stage(0, "lora", FEW, [*TIES, *ISO_C, *SWUDI_A]),
    Stage(0, "sparse", ALL, SECOND),
    Stage(0, "full", ALL, SECOND),
    Stage(0, "lora", FEW, [*CANDIDATES, *REST]),
    *(Stage(seed, kind, ALL, MAIN_LORA if kind == "lora" else MAIN) for seed in (1, 2) for kind in OF_ONE_SCRIPT),
    *(Stage(0, kind, ALL, [*CALIBRATED, *SWUDI_A, *CANDIDATES, *REST]) for kind in OF_ONE_SCRIPT),
]
#: How many stages precede the measurement of quantised experts.
BEFORE_QUANTISED = 3


def actions(work: Path, seeds: int, brief: bool, docs: Path, processes: int) -> dict[str, Callable[[], None]]:
    """The steps. ``--brief``: one set of three full fine-tunes, and sums with and without SVC."""
    stages = [Stage(0, "full", FEW, BRIEF)] if brief else [stage for stage in STAGES if stage.seed < seeds]

    def rows(some: Sequence[Stage]) -> None:
        for stage in some:
            print(f"{stage.kind}, {stage.count} experts, set {stage.seed} ...", flush=True)
            steps.merge_rows(work, stage.seed, stage.kind, stage.count, stage.rows, processes)

    def quantised() -> None:
        if not brief:
            steps.merge_quantised(work, "full", FEW, processes)

    return {
        "data": lambda: steps.prepare_data(work),
        "base": lambda: steps.answer_base(work),
        "first": lambda: rows(stages[:BEFORE_QUANTISED]),
        "quantised": quantised,
        "further": lambda: rows(stages[BEFORE_QUANTISED:]),
        "write": lambda: steps.write_tables(work, range(1 if brief else seeds), docs),
    }
