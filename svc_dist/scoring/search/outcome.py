"""What a search has found so far: its trials by score, as a table and as data."""

from __future__ import annotations

import csv
import dataclasses
import io
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from svc_dist.errors import printable
from svc_dist.scoring.metrics import SCORE
from svc_dist.scoring.search.trials import Trial


@dataclass(frozen=True)
class Outcome:
    """The trials of a search. ``names``: of the dimensions; ``recipe``: the file of the best recipe."""

    folder: str
    names: tuple[str, ...]
    trials: tuple[Trial, ...]
    metric: str | None
    minimise: bool
    recipe: str | None = None

    def score(self, trial: Trial) -> float | None:
        return trial.score(self.metric)

    @property
    def ranked(self) -> list[Trial]:
        """Trials with a score, the best first; of equals the first."""
        scored = [(one, score) for one in self.trials if (score := self.score(one)) is not None]
        return [one for one, _ in sorted(scored, key=lambda pair: pair[1], reverse=not self.minimise)]

    @property
    def best(self) -> Trial | None:
        return next(iter(self.ranked), None)

    def table(self, most: int = 20) -> Iterator[str]:
        """The best trials, and those without a score, in lines."""
        ranked = self.ranked
        rows = [["trial", "score", *self.names]]
        rows += [self._row(one) for one in ranked[:most]]
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        for row in rows:
            yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        if len(ranked) > most:
            yield f"... and {len(ranked) - most} more in {self.folder}/trials.csv"
        for one in self.trials:
            if (reason := one.reason(self.metric)) is not None:
                yield f"{one.number}: {printable(reason.partition(chr(10))[0])}"

    def _row(self, trial: Trial) -> list[str]:
        score = self.score(trial)
        values = [printable(str(trial.values[name])) if trial.values else "recipe" for name in self.names]
        return [str(trial.number), "" if score is None else f"{score:.6g}", *values]

    def csv(self) -> str:
        """Every trial with its values and metrics, for other programs."""
        metrics = list(dict.fromkeys(name for one in self.trials for name in one.metrics))
        if metrics == [SCORE]:  # the command prints a number without a name
            metrics = []
        others = ("trial", "state", "score", *self.names, "seconds", "error")
        named = [f"metric {name}" if name in others else name for name in metrics]
        text = io.StringIO()
        rows = csv.writer(text, lineterminator="\n")
        rows.writerow(["trial", "state", "score", *self.names, *named, "seconds", "error"])
        for one in self.trials:
            values = [one.values.get(name, "") for name in self.names]
            numbers = [one.metrics.get(name) for name in metrics]
            score = self.score(one)
            rest = [f"{one.seconds:.1f}", one.reason(self.metric)]
            rows.writerow([one.number, one.state.value, score, *values, *numbers, *rest])
        return text.getvalue()

    def data(self) -> dict[str, Any]:
        """Plain data for JSON."""
        best = self.best
        return {
            "folder": self.folder,
            "metric": self.metric,
            "minimise": self.minimise,
            "best": None if best is None else self._data(best),
            "recipe": self.recipe,
            "trials": [self._data(one) for one in self.trials],
        }

    def _data(self, trial: Trial) -> dict[str, Any]:
        return dataclasses.asdict(trial) | {"score": self.score(trial)}


def progress(scores: Sequence[float], minimise: bool) -> list[float]:
    """The best score up to each trial."""
    return list(itertools.accumulate(scores, min if minimise else max))
