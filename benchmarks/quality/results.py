"""Results in the work folder: answers by variant, choices on validation texts, differences with intervals."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.quality.variants import Variant

#: By task, the score of every text, from 0 to 1: whether the answer is right, or which share of it.
Answers = Mapping[str, Sequence[float]]
RESAMPLES = 10_000


def read(file: Path) -> dict[str, list[float]]:
    answers: dict[str, list[float]] = json.loads(file.read_text(encoding="utf-8"))
    return answers


def write(file: Path, content: Any) -> None:
    """Write JSON so that the file appears only when it is complete."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".partial")
    partial.write_text(json.dumps(content), encoding="utf-8")
    partial.rename(file)


def accuracy(answers: Answers) -> float:
    """The mean over tasks of the mean score, in percent."""
    return 100 * statistics.fmean(statistics.fmean(right) for right in answers.values())


def choose(variants: Iterable[Variant], folder: Path) -> Variant | None:
    """The variant with the best validation accuracy of those measured; in a tie the first; None if there is none."""
    known = [variant for variant in variants if (folder / "validation" / f"{variant.name}.json").exists()]
    return max(known, key=lambda v: accuracy(read(folder / "validation" / f"{v.name}.json")), default=None)


@dataclass(frozen=True)
class Difference:
    """The difference between two merges in points of average accuracy, with a 95 % interval."""

    mean: float
    low: float
    high: float
    seeds: tuple[float, ...]

    def text(self) -> str:
        return f"{self.mean:+.1f} ({self.low:+.1f} to {self.high:+.1f})"


def difference(one: Sequence[Answers], other: Sequence[Answers]) -> Difference:
    """The difference of ``one`` over ``other``: lists of answers on the same texts, with one entry per seed.

    The interval comes from a paired bootstrap over the texts of each task: a text is drawn with its answers from all
    seeds and both merges. It covers the variance of the texts; the differences by seed show that of the experts.
    """
    generator = np.random.default_rng(0)
    total = np.zeros(RESAMPLES)
    for task in one[0]:
        gain = np.mean([np.subtract(a[task], b[task]) for a, b in zip(one, other, strict=True)], axis=0)
        # Only the number of draws of each value of the gain matters.
        values, counts = np.unique(gain, return_counts=True)
        total += generator.multinomial(len(gain), counts / len(gain), size=RESAMPLES) @ values / len(gain)
    low, high = np.quantile(100 * total / len(one[0]), (0.025, 0.975))
    seeds = tuple(accuracy(a) - accuracy(b) for a, b in zip(one, other, strict=True))
    return Difference(statistics.fmean(seeds), float(low), float(high), seeds)
