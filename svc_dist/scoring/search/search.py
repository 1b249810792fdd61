"""A search: propose values, merge several trials in one pass over the experts, score them, propose anew."""

from __future__ import annotations

import dataclasses
import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from svc_dist.errors import (
    EvaluationError,
    NumericsError,
    OutputError,
    PlanError,
    RecipeError,
    StorageError,
    UnitsFailedError,
)
from svc_dist.plan.make import make_plan
from svc_dist.recipe.evaluation.entry import require_command
from svc_dist.recipe.resolved import ResolvedRecipe
from svc_dist.run.devices.chosen import settings_of
from svc_dist.run.options import Options
from svc_dist.run.session import held, refuse_nesting, run_merge
from svc_dist.run_folder.output import Output
from svc_dist.scoring.command import score
from svc_dist.scoring.evaluate import is_foreign
from svc_dist.scoring.search.best import best_recipe
from svc_dist.scoring.search.outcome import Outcome
from svc_dist.scoring.search.samplers import Sampler, Tried, chosen, proposer
from svc_dist.scoring.search.searched import Searched
from svc_dist.scoring.search.trials import State, Trial, TrialFolder, require_metric
from svc_dist.sizes import counted, format_size
from svc_dist.storage.access import Access
from svc_dist.storage.secrets import redact_command

_log = logging.getLogger("svc_dist")

BEST_FILE = "best.yaml"
PAGE_FILE = "search.html"
TABLE_FILE = "trials.csv"
TRIALS = 20  # where ranges are searched
_BATCH = 4
_SAMPLER = "sampler or seed"  # a key of what scores depend on
_MODELS = "merged"  # in the folder of a search: the models of each pass
_RESERVE = 0.95  # share of the free disk space that models may take
_HOPELESS = 3  # trials without a score, from the first on, after which a search ends


@dataclass(frozen=True)
class SearchRequest:
    """What is asked of a search. ``trials``: None for every combination of a grid, else 20; ``command``: None for that
    under ``evaluate``; ``batch``: models that one pass makes; ``keep``: the models of trials stay."""

    command: str | None = None
    trials: int | None = None
    over: tuple[str, ...] = ()
    metric: str | None = None
    minimise: bool = False
    sampler: str = Sampler.AUTO
    seed: int = 0
    batch: int | None = None
    timeout: float | None = None
    keep: bool = False
    restart: bool = False
    retry_failed: bool = False
    run_commands: bool = False


def search(
    recipe: str | Path, folder: str | Path, request: SearchRequest, options: Options, changes: Mapping[str, Any],
    access: Access,
) -> Outcome:  # fmt: skip
    """Start or resume a search in a local folder. See ``svc-dist search``. Raises SvcDistError."""
    if "://" in str(folder):
        raise OutputError(f"{folder} is a URL, but a score command needs the models on a disk", "name a local folder")
    searched = Searched(recipe, changes, access)
    target = Output(str(folder), searched.recipe.access)
    refuse_nesting(target, searched.recipe.locations)
    with held(target):
        return _Search(recipe, searched, target, request, options).run()


class _Search:
    """A search whose folder is held."""

    def __init__(
        self, recipe: str | Path, searched: Searched, target: Output, request: SearchRequest, options: Options
    ) -> None:
        self.searched, self.target, self.request, self.options = searched, target, request, options
        assert target.storage.path is not None
        self.path = target.storage.path
        self.title = f"Search of {Path(str(recipe)).name}"
        self.command, self.timeout = _command(recipe, searched.recipe, request)
        self.space = searched.space(request.over)
        self.records = TrialFolder(target.storage)
        earlier = self.records.recorded(request.restart) or {}
        before = str(earlier.get(_SAMPLER)) if earlier.get("space") == self.space.describe() else ""
        self.sampler = chosen(Sampler(request.sampler), self.space, request.trials, before.partition(" ")[0])
        self.propose = proposer(self.sampler, self.space, request.seed, request.minimise)
        size = self.space.size
        count = request.trials or (size if self.sampler is Sampler.GRID and size is not None else TRIALS)
        self.count = count if size is None else min(count, size)

    def run(self) -> Outcome:
        as_it_is = self.searched.with_outputs([self.space.entry({}, "trial-0000")])
        plan = make_plan(as_it_is, settings_of(self.options, None))
        identity = {
            "recipe or its inputs (fingerprint)": plan.fingerprint[:16],
            "space": self.space.describe(),
            "score command": redact_command(self.command),
            _SAMPLER: f"{self.sampler} {self.request.seed}",
        }
        if self.records.open(identity, self.request.restart):
            shutil.rmtree(self.path / _MODELS, ignore_errors=True)
            for name in (BEST_FILE, PAGE_FILE, TABLE_FILE):
                self.target.storage.delete(name)
        require_metric(self.records.trials, self.request.metric)
        again = self.records.without_score(self.request.metric) if self.request.retry_failed else []
        batch = self._batch(plan.bytes_out, len(again))
        self.records.retry(again, batch)
        self._remove_scored()
        while pending := self._pending(batch):
            self._try(pending)
            self._report()
            self._require_hope()
        return self._report()

    def _pending(self, size: int) -> list[Trial]:
        """The trials of the next pass: those that an earlier start recorded, else new ones."""
        trials = self.records.trials
        left = [one for one in trials if one.state is State.PROPOSED]
        if left:
            return [one for one in trials if one.batch == left[0].batch]
        if not trials:
            new = [Trial(0, 1, {})]
            new += self._proposed(min(size - 1, self.count), 1, 1)
        else:
            new = self._proposed(min(size, self.count + 1 - len(trials)), len(trials), self.records.next_batch)
        self.records.record(new)
        return new

    def _proposed(self, count: int, first: int, batch: int) -> list[Trial]:
        tried = [Tried(one.values, one.score(self.request.metric)) for one in self.records.trials if one.number]
        found = self.propose(tried, count) if count > 0 else []
        return [Trial(first + number, batch, values) for number, values in enumerate(found)]

    def _try(self, trials: Sequence[Trial]) -> None:
        """Merge the trials of one pass, score those that have no score yet, and remove their models."""
        trials = [self._checked(one) for one in trials]
        possible = [one for one in trials if one.state is not State.FAILED or not self._refused(one)]
        if any(one.state is State.PROPOSED for one in possible):
            numbers = ", ".join(str(one.number) if one.values else "0 (the recipe as it is)" for one in possible)
            _log.info(f"trial{'s' * (len(possible) > 1)} {numbers} of {self.count}: merged in one pass")
            entries = [self.space.entry(one.values, one.name) for one in possible]
            models = self.path / _MODELS / f"batch-{trials[0].batch:04d}"
            try:
                run_merge(self.searched.with_outputs(entries), str(models), self.options)
            except (PlanError, UnitsFailedError) as error:
                reason = error.__cause__ if isinstance(error, UnitsFailedError) else error
                if not isinstance(reason, NumericsError | PlanError):
                    raise
                shutil.rmtree(models, ignore_errors=True)
                return self._set_apart([one for one in possible if one.state is State.PROPOSED], reason.message)
            for one in possible:
                if one.state is State.PROPOSED:
                    self._score(one, models / one.name)
        self._remove_scored()

    def _set_apart(self, trials: Sequence[Trial], why: str) -> None:
        """Have each trial of a pass merged by itself, because one cannot be merged; one alone has failed."""
        if len(trials) > 1:
            _log.warning(f"a trial of this pass cannot be merged: {why}; each is merged by itself")
            self.records.retry(trials, 1, apart=True)
            return
        self.records.record([trials[0].failed(why)])
        _log.warning(f"trial {trials[0].number} cannot be merged: {why}")

    def _checked(self, trial: Trial) -> Trial:
        """A trial, recorded as failed where its values do not go together."""
        error = self._refused(trial) if trial.state is State.PROPOSED else None
        if error is not None:
            trial = trial.failed(error)
            self.records.record([trial])
            _log.warning(f"trial {trial.number} is not merged: {error}")
        return trial

    def _refused(self, trial: Trial) -> str | None:
        """Why the recipe does not take the values of a trial."""
        try:
            self.searched.with_outputs([self.space.entry(trial.values, trial.name)])
        except RecipeError as error:
            return error.message
        return None

    def _score(self, trial: Trial, model: Path) -> None:
        try:
            scores = score(self.command, str(model), self.timeout)
            done = trial.scored(scores.metrics, scores.seconds)
        except EvaluationError as error:
            done = trial.failed(error.message)
            _log.warning(f"trial {trial.number} has no score: {error.message}")
        self.records.record([done])
        require_metric(self.records.trials, self.request.metric)
        if done.state is State.SCORED:
            value = done.score(self.request.metric)
            shown = done.reason(self.request.metric) if value is None else f"score {value:.6g}"
            values = ", ".join(f"{name} {one}" for name, one in trial.values.items()) or "the recipe as it is"
            _log.info(f"trial {trial.number}: {values}: {shown} ({done.seconds:.1f} s)")

    def _remove_scored(self) -> None:
        """Remove the models of passes that are scored whole."""
        open_ones = {one.batch for one in self.records.trials if one.state is State.PROPOSED}
        for batch in {one.batch for one in self.records.trials} - open_ones if not self.request.keep else ():
            shutil.rmtree(self.path / _MODELS / f"batch-{batch:04d}", ignore_errors=True)
        if (self.path / _MODELS).is_dir() and not any((self.path / _MODELS).iterdir()):
            (self.path / _MODELS).rmdir()

    def _batch(self, model: int, again: int) -> int:
        """How many models one pass makes, where so many trials are tried again.

        Raises StorageError where the disk has no room for one, or for those kept.
        """
        left = self.count + 1 - sum(one.state is not State.PROPOSED for one in self.records.trials) + again
        if left <= 0:
            return 1
        free = int(shutil.disk_usage(self.path).free * _RESERVE)
        wanted = min(self.request.batch or _BATCH, left)
        needed = left if self.request.keep else 1
        if needed * model > free:
            raise StorageError(
                f"{self.path}: {counted(needed, 'model')} of {format_size(model)} do not fit into {format_size(free)}",
                "search in a folder on a larger disk" + (", or leave out --keep" if self.request.keep else ""),
            )
        batch = min(wanted, free // max(model, 1)) if not self.request.keep else wanted
        _log.info(
            f"{self.sampler} search over {', '.join(one.name for one in self.space.dimensions)}: "
            f"{counted(left, 'trial')} left, {batch} in one pass, "
            f"{format_size((left if self.request.keep else batch) * model)} of disk space ({format_size(free)} free)"
        )
        return batch

    def _report(self) -> Outcome:
        """Write the table, the page and the best recipe of what is scored so far."""
        outcome = Outcome(
            str(self.path), tuple(one.name for one in self.space.dimensions), tuple(self.records.trials),
            self.request.metric, self.request.minimise,
        )  # fmt: skip
        best = outcome.best
        if best is not None:
            number = "the recipe as it is" if not best.values else f"trial {best.number}"
            about = f"The best of {counted(len(outcome.ranked), 'trial')}: {number}, score {outcome.score(best):.6g}."
            text = best_recipe(self.searched, self.space, best, about, self.path)
            self.target.storage.put(BEST_FILE, text.encode())
            outcome = dataclasses.replace(outcome, recipe=str(self.path / BEST_FILE))
        self.target.storage.put(TABLE_FILE, outcome.csv().encode())
        from svc_dist.scoring.search.page import render

        self.target.storage.put(PAGE_FILE, render(outcome, self.title, redact_command(self.command)).encode())
        return outcome

    def _require_hope(self) -> None:
        """Raise EvaluationError where no trial so far has a score, and there were some."""
        trials = [one for one in self.records.trials if one.state is not State.PROPOSED]
        failed = self.records.without_score(self.request.metric)
        if len(failed) == len(trials) and len(failed) >= min(_HOPELESS, self.count + 1):
            raise EvaluationError(
                f"none of the first {counted(len(failed), 'trial')} has a score; trial {failed[0].number}: "
                f"{failed[0].reason(self.request.metric)}",
                "correct the score command and start again: a search without any score begins anew",
            )


def _command(recipe: str | Path, resolved: ResolvedRecipe, request: SearchRequest) -> tuple[str, float | None]:
    """The score command and its time limit. Raises RecipeError."""
    if request.command is not None:
        try:
            require_command(request.command)
        except ValueError as error:
            raise RecipeError(f"--score: {error}", code="search-refused") from None
        return request.command, request.timeout
    where = resolved.origin.at("evaluate")
    if len(resolved.evaluate) != 1:
        raise RecipeError(
            f"a score is missing: the recipe has {counted(len(resolved.evaluate), 'command')} under `evaluate`",
            "add --score 'COMMAND {output}'",
            code="search-refused",
        )
    if is_foreign(recipe) and not request.run_commands:
        raise RecipeError(
            f"{where}: the recipe is no local file, and it runs a command on this machine:\n"
            f"  {resolved.evaluate[0].command}",
            "read it; then add --run-commands, or a command of your own: --score",
            code="commands-refused",
        )
    return resolved.evaluate[0].command, request.timeout or resolved.evaluate[0].timeout
