"""One start of the merge command: a new run, a resume, or nothing left to do."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from svc_dist.checkpoint.checkpoint import INDEX_FILE
from svc_dist.errors import ChangedInputError, LockedError, OutputError
from svc_dist.plan.fingerprint import PlannedFrom, differences
from svc_dist.plan.make import make_plan
from svc_dist.plan.model import Plan
from svc_dist.plan.settings import Settings
from svc_dist.recipe.resolved import ResolvedRecipe
from svc_dist.run.executors.base import Executor, load_executor
from svc_dist.run.host import detect_device, device_count, settings_here
from svc_dist.run.loop import drive
from svc_dist.run.options import ExecutorKind, Options
from svc_dist.run.progress import Progress
from svc_dist.run.schedule import Schedule
from svc_dist.run_folder.leftovers import remains, remove_run
from svc_dist.run_folder.lock import Lock
from svc_dist.run_folder.output import Output
from svc_dist.run_folder.published import completed, own_files, recorded
from svc_dist.run_folder.report import REPORT_FILE, PublishedMerge, read_report
from svc_dist.sizes import counted, format_size
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


def run_merge(recipe: ResolvedRecipe, output: str, options: Options) -> MergeSummary:
    """Start or resume a merge, or detect that it is done. See ``api.merge``."""
    began = time.monotonic()
    target = Output(output, recipe.access)
    if options.executor != "ray" and options.address is None:  # torch takes seconds to import: let it meanwhile
        threading.Thread(target=__import__, args=("torch",), name="import-torch", daemon=True).start()
    _refuse_nesting(target, recipe.locations)
    if options.restart and target.exists():
        make_plan(recipe, _settings(options, None))  # what is there goes only once the new merge can begin
        with target.lock():
            _discard(target)
    complete = completed(target)
    if complete is not None:
        return _already_complete(recipe, target, complete, options, began)
    _refuse_foreign(target, [result.path for result in recipe.results])
    made = [path for path in target.folders() if not path.exists()]
    try:
        with target.lock() as lock:
            try:
                plan = _planned(recipe, target, options)
            except BaseException:
                if target.storage.path is not None and not target.journal.is_there():
                    target.journal.clear()
                raise
            for warning in plan.warnings:
                _log.warning(warning)
            return _run(plan, target, lock, options, began)
    finally:
        for path in [*target.folders()[:1], *made]:
            with contextlib.suppress(OSError):  # not empty: something came of it
                path.rmdir()


def _settings(options: Options, recorded: Settings | None) -> Settings:
    return settings_here(options.settings, recorded, cluster=options.address is not None)


def _planned(recipe: ResolvedRecipe, output: Output, options: Options) -> Plan:
    """This run's plan: the recorded one if nothing changed since, else a new one in an empty output."""
    old = output.journal.plan()
    plan = make_plan(recipe, _settings(options, None if old is None else old.settings))
    if old is not None:
        if old.fingerprint != plan.fingerprint:
            raise _changed(output.location, old, plan)
        return old
    taken = output.there(own_files(plan))
    if taken:
        raise OutputError(
            f"{output.location}: {taken[0]} is there already, and no run of this plan put it there",
            "name a new or empty folder as OUTPUT",
        )
    output.journal.record_plan(plan)
    return plan


def _run(plan: Plan, output: Output, lock: Lock, options: Options, began: float) -> MergeSummary:
    sink = output.sink(plan.fingerprint)
    done = output.journal.surviving(plan, sink, output.storage.delete)
    sink.prepare(plan.shards)
    finished = _finished(plan, sink, done)
    kind = _executor_kind(plan, options)
    for warning in options.without_effect(kind, plan, output.access):
        _log.warning(f"warning: {warning}")
    executor = load_executor(kind)(plan, output, options)
    if done:
        _log.info(f"resuming: {len(done):,} of {counted(len(plan.units), 'unit')} are done")
    _log.info(
        f"merging {counted(len(plan.tensors), 'tensor')} into {counted(len(plan.shards), 'shard')} "
        f"({format_size(plan.bytes_out)}): {counted(len(plan.units) - len(done), 'unit')}, executor {kind}, "
        f"{_in_parallel(executor)}device {plan.settings.device}, precision {plan.settings.precision}"
    )
    schedule = Schedule(
        plan,
        executor.nodes,
        options.slots,
        done=frozenset(done),
        finished=frozenset(finished),
        sink_memory=sink.memory,
    )
    try:
        with Progress(plan, done, options.progress) as progress:
            drive(schedule, executor, progress, output.journal, options.limits, lock)
    finally:
        executor.close()
    seconds = time.monotonic() - began
    return _summary(plan, output.location, len(done), schedule.retries, seconds, kind)


def _in_parallel(executor: Executor) -> str:
    slots = sum(node.slots for node in executor.nodes.values())
    return f"{slots} in parallel, " if slots else ""


def _finished(plan: Plan, sink: Sink, done: Collection[str]) -> list[int]:
    """The shards that are under their names in every result; asked only of those all of whose units are done."""
    undone = {unit.shard for unit in plan.units if unit.id not in done}
    held = {n: [sink.state(plan.shards[shard]) for shard in plan.shards_of(n)] for n in set(range(plan.count)) - undone}
    return [n for n in sorted(held) if all(one is not None and one.finished for one in held[n])]


def _executor_kind(plan: Plan, options: Options) -> str:
    if options.executor != ExecutorKind.AUTO:
        return options.executor
    return "ray" if options.address is not None or device_count(plan.settings.device) > 1 else "inline"


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


def _already_complete(
    recipe: ResolvedRecipe, output: Output, published: PublishedMerge, options: Options, began: float
) -> MergeSummary:
    settings = options.settings.resolve(published.settings, detect_device)
    plan = make_plan(recipe, settings)
    if plan.fingerprint != published.fingerprint:
        file = next(name for name in published.files if name.rpartition("/")[2] == REPORT_FILE)
        report = read_report(f"{output.location}/{file}".rpartition("/")[0], output.access)
        raise ChangedInputError(
            f"{output.location} holds a complete merge of something else; since then this changed:\n"
            + _changes(report, plan),
            "name another OUTPUT, or replace it with --restart; what it was made from is in "
            f"{output.location}/{REPORT_FILE}",
        )
    if not output.journal.is_empty():  # the start that completed it was killed before it had cleared up
        with contextlib.suppress(LockedError), output.lock():
            output.journal.clear()
    _log.info(f"{output.location} is complete already")
    return _summary(plan, output.location, len(plan.units), 0, time.monotonic() - began, "none")


def _discard(output: Output) -> None:
    """Remove what an earlier run put there, index first, and nothing else; last, what tells what that was."""
    report, left = completed(output), remains(output)
    if report is None and left.plan is None:  # maybe a start was killed that removed a finished merge
        report = recorded(output)
    names = left.files if report is None else report.files
    for name in sorted(names, key=lambda name: not name.endswith(INDEX_FILE)):
        if not {"", ".", ".."} & set(name.split("/")):
            output.storage.delete(name)
    remove_run(output)


def _refuse_foreign(output: Output, paths: Sequence[str]) -> None:
    """An output that is not empty must hold a run of ours, or nothing that looks like a model."""
    if not output.exists() or output.journal.is_there():
        return
    for place in map(output.storage.sub, paths):
        models = [name for name in place.names() if ".safetensors" in name]
        earlier = recorded(output) if models else None
        if earlier is not None and models[0] in {name.rpartition("/")[2] for name in earlier.files}:
            raise OutputError(
                f"{place.location} holds {models[0]} and maybe more of an earlier merge that is not whole any more",
                "remove the rest with --restart, or name a new folder as OUTPUT",
            )
        if models:
            raise OutputError(
                f"{place.location} already holds {models[0]}, which no run of svc-dist put there",
                "name a new folder as OUTPUT",
            )


def _refuse_nesting(output: Output, locations: Sequence[str]) -> None:
    for location in locations:
        if overlap(output.storage, open_storage(location, output.access)):
            raise OutputError(
                f"the output {output.location} and the input {location} lie inside one another",
                "inputs are never written to: name another folder as OUTPUT",
            )


def _changed(output: str, old: Plan, new: Plan) -> ChangedInputError:
    return ChangedInputError(
        f"{output} holds an unfinished merge of something else; since then this changed:\n{_changes(old, new)}",
        "undo the change to resume, start over with --restart, or name another OUTPUT",
    )


def _changes(old: PlannedFrom, new: PlannedFrom) -> str:
    return "\n".join(f"  {line}" for line in differences(old, new))
