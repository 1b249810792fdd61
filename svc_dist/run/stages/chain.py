"""One start of a merge of several documents: the stages that are left, in order, in one output."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, replace

from svc_dist.errors import DamagedInputError, DrainedError, LockedError, warning_code
from svc_dist.plan.hub_models import located
from svc_dist.plan.inputs import PlannedModel
from svc_dist.plan.model import Plan
from svc_dist.plan.stages import plan_stages
from svc_dist.recipe.documents import Stage, title
from svc_dist.run.devices.chosen import on_cluster, settings_of
from svc_dist.run.early_imports import import_torch
from svc_dist.run.host import detect_device, identify_gpu
from svc_dist.run.options import Options
from svc_dist.run.session import (
    MergeSummary,
    already_complete,
    discard,
    held,
    planning,
    refuse_foreign,
    refuse_nesting,
    require_free,
    run_merge,
    run_planned,
)
from svc_dist.run.signals.stopping import signals
from svc_dist.run_folder.lock import Lock
from svc_dist.run_folder.output import Output
from svc_dist.run_folder.published import OUTPUTS_FILE, completed, own_files, recorded_models
from svc_dist.run_folder.report import PublishedMerge
from svc_dist.run_folder.stages.choices import with_recorded_choices
from svc_dist.run_folder.stages.records import (
    StageRecord,
    made_stage,
    models_of,
    pending,
    read_stages,
    remove_unneeded,
    stage_output,
    write_stages,
)
from svc_dist.run_folder.starts.changed import changes, other_merge, other_run, planned_again

_log = logging.getLogger("svc_dist")


def run_stages(stages: Sequence[Stage], output: str, options: Options) -> MergeSummary:
    """Start or resume the merges of one or several documents, or detect that they are done. See ``api.merge``."""
    if len(stages) == 1:
        return run_merge(stages[0].recipe, output, options)
    began = time.monotonic()
    whole = Output(output, stages[-1].recipe.access)
    import_torch(options)
    exists = whole.exists()
    restart = exists and options.restart
    if exists and not restart:
        stages = with_recorded_choices(stages, whole)
    results = [stage_output(whole, stage.name, True) for stage in stages if stage.result]
    published = [completed(result) for result in results] if exists and not restart else [None]
    complete = [one for one in published if one is not None]
    if len(complete) == len(results) and not whole.journal.is_there():
        return _already_complete(stages, whole, complete, options, began)
    with held(whole) as lock, on_cluster(options) as options:
        with planning(whole):
            run = _Run(stages, whole, options, restart)
        return run.finish(lock, began)


def summary_of_complete(stages: Sequence[Stage], whole: Output, options: Options, began: float) -> MergeSummary | None:
    """The summary of these merges where an output holds them, complete, and whose lock nobody needs; else None.

    Raises OtherMergeError where it holds others.
    """
    if len(stages) == 1:
        recipe, published = stages[0].recipe, completed(whole)
        if published is None:
            return None
        recipe = located(recipe, recorded_models(whole) if recipe.hub_ids else ())
        return already_complete(recipe, whole, published, options, began)
    results = [completed(stage_output(whole, stage.name, True)) for stage in stages if stage.result]
    complete = [one for one in results if one is not None]
    return _already_complete(stages, whole, complete, options, began) if len(complete) == len(results) else None


class _Run:
    """A run of several stages whose lock is held: everything is planned, and nothing is merged yet."""

    def __init__(self, stages: Sequence[Stage], whole: Output, options: Options, restart: bool) -> None:
        self.whole, self.options = whole, options
        old = _old_stages(whole, restart)
        recorded = () if restart else old or ()
        self.stages = [replace(one, recipe=located(one.recipe, models_of(recorded))) for one in stages]
        for stage in self.stages:
            refuse_nesting(whole, stage.recipe.locations)
        settings = settings_of(options, recorded[0].settings if recorded else None)
        self.plans = plan_stages(self.stages, settings)
        self.records = [StageRecord.of(stage, plan) for stage, plan in zip(self.stages, self.plans, strict=True)]
        if recorded:
            self._require_same(recorded)
            return
        if not restart and whole.journal.is_there():
            raise other_run(whole, "  recipe: had one document, has several")
        self._begin(old or (), restart)

    def _require_same(self, recorded: Sequence[StageRecord]) -> None:
        """Raise ChangedInputError where the recorded stages are others."""
        lines: list[str] = []
        if [one.name for one in recorded] != [one.name for one in self.records]:
            names = (", ".join(one.name or "(no name)" for one in records) for records in (recorded, self.records))
            lines.append("  documents: were {}, are {}".format(*names))
        else:
            for old, new in zip(recorded, self.records, strict=True):
                found = [line for line in changes(old, new).splitlines() if not line.startswith("  stage://")]
                if old.fingerprint != new.fingerprint and found:
                    lines += [f"  {title(new.name)}:", *(f"  {line}" for line in found)]
        if [one.fingerprint for one in recorded] != [one.fingerprint for one in self.records]:
            raise other_run(self.whole, "\n".join(lines))

    def _begin(self, old: Sequence[StageRecord], restart: bool) -> None:
        """Record the stages in an empty output. ``restart``: after the removal of what an earlier run made."""
        outputs = [record.output(self.whole) for record in self.records if record.result]
        if restart:
            earlier = [record.output(self.whole) for record in old if record.result]
            for one in {each.location: each for each in (*earlier, *outputs)}.values():
                if one.location != self.whole.location and one.exists():
                    discard(one)
            discard(self.whole)
        for stage, plan in zip(self.stages, self.plans, strict=True):
            if stage.result:
                result = stage_output(self.whole, stage.name, True)
                if not self._is_done(result, plan):
                    refuse_foreign(result, stage.recipe)
                    require_free(result, plan)
        self.whole.journal.record_paths(self.stages[-1].recipe.path_values)
        write_stages(self.whole, self.records)

    def _is_done(self, result: Output, plan: Plan) -> bool:
        """Whether an earlier run has made this result. Raises ChangedInputError where it has made another one."""
        done = completed(result)
        if done is not None and done.fingerprint != plan.fingerprint:
            raise other_merge(result, done, plan)
        return done is not None

    def finish(self, lock: Lock, began: float) -> MergeSummary:
        """Run the stages that are left. SIGTERM, SIGINT or the end of the time limit stops between them, too."""
        for plan in self.plans:
            for warning in plan.warnings:
                _log.warning(warning, extra={"fields": {"code": warning_code(warning)}})
        stop = threading.Event()
        summaries: dict[str | None, MergeSummary] = {}
        with signals(stop):
            while left := pending(self.whole, self.records):
                remove_unneeded(self.whole, self.records, left)
                if stop.is_set():
                    raise DrainedError(
                        f"{title(left[0].name)} is not merged yet",
                        "run the same command again to resume",
                    )
                number = next(n for n, record in enumerate(self.records) if record.name == left[0].name)
                _log.info(f"{title(left[0].name)}: {number + 1} of {len(self.records)}")
                summaries[left[0].name] = self._run(number, lock, stop, began)
        self._publish()
        return self._summary(summaries, began)

    def _run(self, number: int, lock: Lock, stop: threading.Event, began: float) -> MergeSummary:
        record, plan = self.records[number], self.plans[number]
        plans = {one.name: (one, its) for one, its in zip(self.records, self.plans, strict=True)}
        made = {name: made_stage(self.whole, *plans[name]) for name in record.uses}
        output = record.output(self.whole, replace(self.stages[number].recipe.access, stages=made))
        old = output.journal.plan()
        if old is not None and old.fingerprint != plan.fingerprint:
            raise other_run(output, changes(old, plan))
        if old is None:
            output.journal.record_recipe(self.stages[number].recipe.text)
        if old != plan:
            output.journal.record_plan(plan)
        limits = self.options.limits
        if limits.runtime is not None:
            limits = replace(limits, runtime=max(0.0, limits.runtime - (time.monotonic() - began)))
        return run_planned(plan, output, lock, replace(self.options, limits=limits), time.monotonic(), stop)

    def _publish(self) -> None:
        """Say in OUTPUT that all results are complete, where it is none of them, and remove the run folder."""
        if all(record.name is not None for record in self.records):
            files = [f"{one.name}/{file}" for one, plan in self._results() for file in own_files(plan)]
            outputs = {
                "fingerprint": _fingerprint(self.plans),
                "settings": asdict(self.plans[0].settings),
                "outputs": [one.name for one, _ in self._results()],
                "files": files,
            }
            self.whole.storage.put(OUTPUTS_FILE, json.dumps(outputs, indent=1).encode())
        if not self.whole.journal.is_empty():
            self.whole.journal.clear()

    def _results(self) -> list[tuple[StageRecord, Plan]]:
        return [(one, plan) for one, plan in zip(self.records, self.plans, strict=True) if one.result]

    def _summary(self, summaries: dict[str | None, MergeSummary], began: float) -> MergeSummary:
        each = [
            summaries.get(record.name) or _done(plan, record.output(self.whole).location)
            for record, plan in zip(self.records, self.plans, strict=True)
        ]
        return _sum(each, self.whole.location, time.monotonic() - began)


def _old_stages(whole: Output, restart: bool) -> tuple[StageRecord, ...] | None:
    """The stages of an earlier run; with ``restart`` none where they cannot be read."""
    with contextlib.suppress(DamagedInputError) if restart else contextlib.nullcontext():
        return read_stages(whole)
    return None


def _already_complete(
    stages: Sequence[Stage], whole: Output, published: Sequence[PublishedMerge], options: Options, began: float
) -> MergeSummary:
    results = [stage_output(whole, stage.name, True) for stage in stages if stage.result]
    models: tuple[PlannedModel, ...] = ()
    if any(stage.recipe.hub_ids for stage in stages):
        models = tuple(model for result in results for model in recorded_models(result))
    settings = options.settings.resolve(published[0].settings, detect_device, identify_gpu)
    with planned_again(whole):
        plans = plan_stages(stages, settings, models)
    of_results = [plan for plan, stage in zip(plans, stages, strict=True) if stage.result]
    for result, plan, one in zip(results, of_results, published, strict=True):
        if plan.fingerprint != one.fingerprint:
            raise other_merge(result, one, plan)
    if not whole.journal.is_empty():  # the run that completed it was killed before it removed its run folder
        with contextlib.suppress(LockedError), whole.lock():
            whole.journal.clear()
    _log.info(f"{whole.location} is complete already")
    return _sum([_done(plan, whole.location) for plan in plans], whole.location, time.monotonic() - began)


def _done(plan: Plan, location: str) -> MergeSummary:
    """The summary of a stage that earlier runs made."""
    units = len(plan.units)
    sizes = (len(plan.tensors), len(plan.shards), units, units, 0, plan.bytes_in, plan.bytes_out)
    return MergeSummary(location, plan.fingerprint, *sizes, 0.0, "none", plan.settings.precision, plan.warnings)


def _sum(each: Sequence[MergeSummary], location: str, seconds: float) -> MergeSummary:
    """The summary of all stages: tensors and shards are those of the last one."""
    ran = next((one.executor for one in each if one.executor != "none"), "none")
    return replace(
        each[-1],
        output=location,
        units=sum(one.units for one in each),
        units_resumed=sum(one.units_resumed for one in each),
        retries=sum(one.retries for one in each),
        bytes_in=sum(one.bytes_in for one in each),
        bytes_out=sum(one.bytes_out for one in each),
        seconds=seconds,
        executor=ran,
        warnings=tuple(warning for one in each for warning in one.warnings),
        stages=tuple(each),
    )


def _fingerprint(plans: Sequence[Plan]) -> str:
    return hashlib.sha256(" ".join(plan.fingerprint for plan in plans).encode()).hexdigest()
