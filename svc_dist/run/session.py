"""One start of the merge command: a new run, a resume, or nothing left to do."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from svc_dist.errors import LockedError, OutputError, warning_code
from svc_dist.plan.hub_models import located
from svc_dist.plan.make import make_plan
from svc_dist.plan.model import Plan
from svc_dist.recipe.resolved import ResolvedRecipe
from svc_dist.run.devices.chosen import on_cluster, settings_of
from svc_dist.run.early_imports import import_torch
from svc_dist.run.executors import find_executor
from svc_dist.run.executors.base import Executor
from svc_dist.run.host import detect_device, device_count, identify_gpu
from svc_dist.run.loop import drive
from svc_dist.run.options import Options
from svc_dist.run.progress import Progress
from svc_dist.run.schedule import Schedule
from svc_dist.run_folder.documents.choices import with_recorded_choice
from svc_dist.run_folder.documents.records import recorded_documents
from svc_dist.run_folder.leftovers import remains, remove_run
from svc_dist.run_folder.lock import Lock
from svc_dist.run_folder.output import Output
from svc_dist.run_folder.published import completed, own_files, own_names, recorded, recorded_models, require_shards
from svc_dist.run_folder.report import PublishedMerge
from svc_dist.run_folder.segments.ledger import Ledger
from svc_dist.run_folder.starts.changed import changes, other_merge, other_run, planned_again
from svc_dist.run_folder.starts.record import RecordedStart
from svc_dist.sizes import counted, format_size
from svc_dist.storage.access import DOCUMENT
from svc_dist.storage.open import open_storage, overlap
from svc_dist.storage.writing.base import Sink

_log = logging.getLogger("svc_dist")


@dataclass(frozen=True)
class MergeSummary:
    """What a call of ``merge`` did. ``units_resumed``: units that earlier runs had completed; bytes and seconds."""

    output: str
    fingerprint: str
    tensors: int
    shards: int
    units: int
    units_resumed: int
    retries: int
    bytes_in: int
    bytes_out: int
    seconds: float
    executor: str
    precision: str
    warnings: tuple[str, ...]
    documents: tuple[MergeSummary, ...] = ()

    def __repr__(self) -> str:
        resumed = f", {self.units_resumed:,} of them by earlier runs" if self.units_resumed else ""
        warned = f", {counted(len(self.warnings), 'warning')}" if self.warnings else ""
        return (
            f"<MergeSummary {self.output}: {counted(self.tensors, 'tensor')} in {counted(self.shards, 'shard')}, "
            f"{format_size(self.bytes_out)}, {counted(self.units, 'unit')}{resumed}, {self.seconds:.1f} s{warned}>"
        )


def run_merge(recipe: ResolvedRecipe, output: str, options: Options) -> MergeSummary:
    """Start or resume a merge, or detect that it is done. See ``api.merge``."""
    began = time.monotonic()
    target = Output(output, recipe.access)
    import_torch(options)
    exists = target.exists()
    restart = exists and options.restart
    recipe = located(recipe, recorded_models(target) if exists and not restart and recipe.hub_ids else ())
    if exists and not restart:
        recipe = with_recorded_choice(recipe, target)
    refuse_nesting(target, recipe.locations)
    complete = completed(target) if exists and not restart else None
    if complete is not None:
        return already_complete(recipe, target, complete, options, began)
    if exists and not restart:
        refuse_foreign(target, recipe)
    with held(target) as lock, on_cluster(options) as options:
        with planning(target):
            plan = _planned(recipe, target, options, restart)
        for warning in plan.warnings:
            _log.warning(warning, extra={"fields": {"code": warning_code(warning)}})
        return run_planned(plan, target, lock, options, began)


@contextlib.contextmanager
def held(target: Output) -> Iterator[Lock]:
    """Hold the lock of an output. A start that writes nothing removes the folders that it made."""
    made = [path for path in target.folders() if not path.exists()]
    try:
        with target.lock() as lock:
            yield lock
    finally:
        for path in [*target.folders()[:1], *made]:
            with contextlib.suppress(OSError):  # not empty: the run wrote something
                path.rmdir()


@contextlib.contextmanager
def planning(target: Output) -> Iterator[None]:
    """Plan a run in a held output. Where that fails before anything is recorded, the run folder is left empty."""
    try:
        yield
    except BaseException:
        if target.storage.path is not None and not target.journal.is_there():
            target.journal.clear()
        raise


def _planned(recipe: ResolvedRecipe, output: Output, options: Options, restart: bool) -> Plan:
    """This run's plan: the recorded one if nothing changed since, else a new one in an empty output.

    ``restart`` removes the earlier merge, but only after the new one could be planned.
    """
    old = None if restart else output.journal.plan()
    if not restart and recorded_documents(output) is not None:
        raise other_run(output, "  recipe: had several documents, has one")
    recorded_settings = None if old is None else old.settings
    plan = make_plan(recipe, settings_of(options, recorded_settings))
    if old is not None:
        if old.fingerprint != plan.fingerprint:
            raise other_run(output, changes(old, plan))
        if old != plan:  # in what changes no byte: costs, warnings and reasons
            output.journal.record_plan(plan)
        return plan
    if restart:
        discard(output)
        refuse_foreign(output, recipe)
    require_free(output, plan)
    output.journal.record_paths(recipe.path_values)
    output.journal.record_recipe(recipe.text)
    output.journal.record_plan(plan)
    return plan


def require_free(output: Output, plan: Plan) -> None:
    """Raise OutputError when a file is there that a new run of this plan would write."""
    existing = output.existing(own_files(plan))
    if existing:
        raise OutputError(
            f"{output.location}: {existing[0]} is there already, and no run of this plan put it there",
            "name a new or empty folder as OUTPUT",
        )


def run_planned(
    plan: Plan, output: Output, lock: Lock, options: Options, began: float, stop: threading.Event | None = None
) -> MergeSummary:
    """Run the units of a recorded plan that are left, and publish. ``stop``: see ``drive``."""
    with Ledger(output.journal, plan) as ledger:
        return _run_units(plan, output, ledger, lock, options, began, stop)


def _run_units(
    plan: Plan, output: Output, ledger: Ledger, lock: Lock, options: Options, began: float, stop: threading.Event | None
) -> MergeSummary:
    sink = output.sink(plan.fingerprint)
    done = ledger.resume(sink, output.storage.delete)
    sink.prepare(plan.shards)
    kind = options.executor_for(lambda: device_count(plan.settings.device))
    for warning in options.without_effect(kind, plan, output.access):
        _log.warning(f"warning: {warning}")
    executor: Executor = find_executor(kind).load()(plan, output, options)
    if done:
        _log.info(f"resuming: {len(done):,} of {counted(len(plan.units), 'unit')} are done")
    slots = sum(node.slots for node in executor.nodes.values())
    _log.info(
        f"merging {counted(len(plan.tensors), 'tensor')} into {counted(len(plan.shards), 'shard')} "
        f"({format_size(plan.bytes_out)}): {counted(len(plan.units) - len(done), 'unit')}, executor {kind}, "
        f"{f'{slots} in parallel, ' if slots else ''}device {plan.settings.device}, precision {plan.settings.precision}"
    )
    finished = _finished_shards(plan, output, sink, done)
    landing = any(open_storage(model.location, output.access).path is None for model in plan.inputs)
    schedule = Schedule(plan, executor.nodes, options.slots, done, finished, sink_memory=sink.memory, landing=landing)
    try:
        with (
            Progress(plan, done, options.progress, options.on_progress) as progress,
            RecordedStart(output, plan, progress.state),
            options.watch(progress.figures),
        ):
            drive(schedule, executor, progress, ledger, options.limits, lock, stop)
    finally:
        executor.close()
    seconds = time.monotonic() - began
    return _summary(plan, output.location, len(done), schedule.retries, seconds, kind)


def _finished_shards(plan: Plan, output: Output, sink: Sink, done: Collection[str]) -> set[int]:
    """The shards that exist under their names in every result, as the run that finished them left them.

    Queries only those whose units are all done.
    """
    undone = {unit.shard for unit in plan.units if unit.id not in done}

    def unchanged(file: str) -> bool:
        identity = None if sink.self_proving else output.storage.stat(file)
        return sink.self_proving or (identity is not None and output.journal.is_recorded(identity))

    def finished(number: int) -> bool:
        shards = [plan.shards[shard] for shard in plan.shards_of(number)]
        states = (sink.state(shard) for shard in shards)
        return all(state is not None and state.finished for state in states) and all(
            unchanged(shard.file) for shard in shards
        )

    return {number for number in range(plan.count) if number not in undone and finished(number)}


def _summary(plan: Plan, output: str, resumed: int, retries: int, seconds: float, executor: str) -> MergeSummary:
    return MergeSummary(
        output=output,
        fingerprint=plan.fingerprint,
        tensors=len(plan.tensors),
        shards=len(plan.shards),
        units=len(plan.units),
        units_resumed=resumed,
        retries=retries,
        bytes_in=plan.bytes_in,
        bytes_out=plan.bytes_out,
        seconds=seconds,
        executor=executor,
        precision=plan.settings.precision,
        warnings=plan.warnings,
    )


def already_complete(
    recipe: ResolvedRecipe, output: Output, published: PublishedMerge, options: Options, began: float
) -> MergeSummary:
    """The summary of a complete merge that is the one of this recipe. Raises OtherMergeError where it is another."""
    settings = options.settings.resolve(published.settings, detect_device, identify_gpu)
    with planned_again(output):
        plan = make_plan(recipe, settings)
    if plan.fingerprint != published.fingerprint:
        raise other_merge(output, published, plan)
    require_shards(output, plan)
    leave_complete(output)
    return _summary(plan, output.location, len(plan.units), 0, time.monotonic() - began, "none")


def leave_complete(output: Output) -> None:
    """Say that a merge is complete, and remove its run folder if the run that completed it was killed before it did."""
    if not output.journal.is_empty():
        with contextlib.suppress(LockedError), output.lock():
            output.journal.clear()
    _log.info(f"{output.location} is complete already")


def discard(output: Output) -> None:
    """Remove only the files of an earlier run: the index first, and last the run folder, which lists them."""
    report, leftovers = completed(output), remains(output)
    if report is None and leftovers.plan is None:  # a run may have been killed while it removed a finished merge
        report = recorded(output)
    for name in leftovers.files if report is None else own_names(output, report):
        output.storage.delete(name)
    remove_run(output)


def refuse_foreign(output: Output, recipe: ResolvedRecipe) -> None:
    """Raise OutputError when the output contains a model's files, but no unfinished run."""
    if output.journal.is_there():
        return
    for folder in (output.storage.sub(result.path) for result in recipe.results):
        file = next((name for name in folder.names() if ".safetensors" in name), None)
        if file is None:
            continue
        earlier = recorded(output)
        if earlier is not None and file in {name.rpartition("/")[2] for name in earlier.files}:
            raise OutputError(
                f"{folder.location} holds {file}, left over from an earlier, incomplete merge",
                "remove the rest with --restart, or name a new folder as OUTPUT",
            )
        raise OutputError(
            f"{folder.location} already holds {file}, which no run of svc-dist put there",
            "name a new folder as OUTPUT",
        )


def refuse_nesting(output: Output, locations: Sequence[str]) -> None:
    """Raise OutputError when an input lies in the output, or the output in an input."""
    for location in (location for location in locations if not location.startswith(DOCUMENT)):
        if overlap(output.storage, open_storage(location, output.access)):
            raise OutputError(
                f"the output {output.location} and the input {location} lie inside one another",
                "inputs are never written to: name another folder as OUTPUT",
            )
