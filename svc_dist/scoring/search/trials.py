"""The trials of a search in its folder: a file each, written whole, from which a search that was killed resumes."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import msgspec

from svc_dist.errors import ChangedInputError, DamagedInputError, OutputError, RecipeError
from svc_dist.scoring import metrics
from svc_dist.storage.base import Storage

_SEARCH = "search.json"
_FOLDER = "trials"
_LARGEST = 16 << 20  # bytes of a file that is read


class State(StrEnum):
    """How far a trial is. Its values are recorded before it is merged."""

    PROPOSED = "proposed"
    SCORED = "scored"
    FAILED = "failed"


@dataclass(frozen=True)
class Trial:
    """One model of a search. ``values``: of each dimension; none for the recipe as it is, which is trial 0.

    ``batch``: the pass over the experts that merges it. ``error``: why it has no score.
    """

    number: int
    batch: int
    values: dict[str, Any]
    state: State = State.PROPOSED
    metrics: dict[str, float | None] = field(default_factory=dict)
    seconds: float = 0.0
    error: str | None = None

    @property
    def name(self) -> str:
        return f"trial-{self.number:04d}"

    def score(self, metric: str | None) -> float | None:
        """The number that counts; None where it has none, or not that one (see ``require_metric``)."""
        with suppress(RecipeError):
            return self._chosen(metric)
        return None

    def reason(self, metric: str | None) -> str | None:
        """Why an ended trial has no score; None where it has one, or did not end."""
        if self.state is State.FAILED:
            return self.error or "it failed"
        try:
            return "its score is not finite" if self.state is State.SCORED and self._chosen(metric) is None else None
        except RecipeError as error:
            return error.message

    def _chosen(self, metric: str | None) -> float | None:
        if self.state is not State.SCORED:
            return None
        return metrics.chosen({key: math.nan if one is None else one for key, one in self.metrics.items()}, metric)

    def scored(self, metrics: dict[str, float], seconds: float) -> Trial:
        finite = {key: value if math.isfinite(value) else None for key, value in metrics.items()}
        return dataclasses.replace(self, state=State.SCORED, metrics=finite, seconds=seconds)

    def failed(self, error: str) -> Trial:
        return dataclasses.replace(self, state=State.FAILED, error=error)


_TRIAL = msgspec.json.Decoder(Trial)


def require_metric(trials: Sequence[Trial], metric: str | None) -> None:
    """Raise RecipeError where trials have numbers, and it is clear for none of them which one counts."""
    problem: RecipeError | None = None
    for trial in trials:
        if trial.state is State.SCORED:
            try:
                trial._chosen(metric)
                return
            except RecipeError as error:
                problem = problem or error
    if problem is not None:
        raise problem


class TrialFolder:
    """The records of one search."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self.trials: list[Trial] = []

    def open(self, search: dict[str, Any], restart: bool) -> bool:
        """Read the trials of this search, or begin it. Returns whether it begins anew.

        ``search``: what its scores depend on, by name. A search without any score begins anew. Raises OutputError where
        the folder holds something else, ChangedInputError where it has scores of another search, DamagedInputError.
        """
        recorded = self.recorded(restart)
        others = [one for one in (*self.storage.names(), *self.storage.folders()) if not one.startswith(".")]
        if recorded is None and others:
            raise OutputError(
                f"{self.storage.location} holds {others[0]}, which no search put there",
                "name a new or empty folder as FOLDER",
            )
        names = sorted(name for name in self.storage.names(_FOLDER) if name.endswith(".json"))
        trials = [] if restart else sorted(map(self._read, names), key=lambda one: one.number)
        changed = [
            f"  {key}: was {recorded.get(key)}, is {value}"
            for key, value in (search.items() if recorded is not None else ())
            if recorded is not None and recorded.get(key) != value
        ]
        any_scored = any(value is not None for one in trials for value in one.metrics.values())
        if changed and any_scored:
            raise ChangedInputError(
                f"{self.storage.location} holds a search of something else; since then this changed:\n"
                + "\n".join(changed),
                "undo the change to resume it (the fingerprint covers --device, --precision and --threads-per-unit), "
                "name another FOLDER, or start over with --restart",
            )
        anew = recorded != search or not (any_scored or all(one.state is State.PROPOSED for one in trials))
        if anew or restart:
            for name in names:
                self.storage.delete(f"{_FOLDER}/{name}")
            self.storage.put(_SEARCH, json.dumps(search, indent=1).encode())
            return True
        self.trials = trials
        return False

    def retry(self, trials: Sequence[Trial], size: int, apart: bool = False) -> None:
        """Have these trials tried again, in passes of ``size`` models.

        One whose pass is not complete stays in it, unless ``apart``: a pass merges what it began with.
        """
        incomplete = {one.batch for one in self.trials if one.state is State.PROPOSED and not apart}
        closed = [one.number for one in trials if one.batch not in incomplete]
        first = self.next_batch
        batches = {number: first + place // size for place, number in enumerate(closed)}
        self.record([Trial(one.number, batches.get(one.number, one.batch), one.values) for one in trials])

    def without_score(self, metric: str | None) -> list[Trial]:
        """The trials that ended without a score."""
        return [one for one in self.trials if one.reason(metric) is not None]

    @property
    def next_batch(self) -> int:
        """The number of a new pass."""
        return max((one.batch for one in self.trials), default=0) + 1

    def record(self, trials: Sequence[Trial]) -> None:
        """Write trials, new or changed."""
        for trial in trials:
            text = json.dumps(dataclasses.asdict(trial), indent=1, allow_nan=False)
            self.storage.put(f"{_FOLDER}/{trial.number:04d}.json", text.encode())
        numbers = {one.number for one in trials}
        kept = [one for one in self.trials if one.number not in numbers]
        self.trials = sorted([*kept, *trials], key=lambda one: one.number)

    def recorded(self, restart: bool = False) -> dict[str, Any] | None:
        """What the scores in the folder depend on; None without a search. ``restart``: they are to be discarded."""
        data = self.storage.get_within(_SEARCH, _LARGEST)
        if data is None or restart:
            return None if data is None else {}
        try:
            return dict(json.loads(data))
        except (ValueError, TypeError, RecursionError) as error:
            raise self._damaged(_SEARCH, error) from None

    def _read(self, name: str) -> Trial:
        name = f"{_FOLDER}/{name}"
        try:
            return _TRIAL.decode(self.storage.get_within(name, _LARGEST) or b"")
        except (ValueError, RecursionError) as error:
            raise self._damaged(name, error) from None

    def _damaged(self, name: str, error: Exception) -> DamagedInputError:
        return DamagedInputError(
            f"{self.storage.location}/{name} cannot be read: {error}", "start over with --restart, or restore the file"
        )
