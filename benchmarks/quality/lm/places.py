"""Where the language model's experts, merges and scores lie in the work folder, and what computes scores."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

from benchmarks.quality.lm.base import base_model
from benchmarks.quality.lm.data import TASKS, Item, read
from benchmarks.quality.merging import Place

ABILITIES = "abilities"


def experts_folder(work: Path, seed: int, kind: str) -> Path:
    return work / f"seed{seed}" / kind


def place(work: Path, seed: int, kind: str, count: int) -> Place:
    """The merges of the first ``count`` experts of a seed and a kind."""
    folder, names = experts_folder(work, seed, kind), tuple(TASKS)[:count]
    experts = tuple(folder / "experts" / name for name in names)
    return Place(base_model(work), folder / f"K{count}", names, experts)


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
def evaluator(work: Path) -> Evaluator:
    return Evaluator(work)
