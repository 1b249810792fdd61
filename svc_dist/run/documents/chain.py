"""One start of a merge of several documents: those that are left, in order, in one output."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, replace

from svc_dist.errors import DamagedInputError, DrainedError, warning_code
from svc_dist.plan.documents import plan_documents
from svc_dist.plan.hub_models import located
from svc_dist.plan.inputs import PlannedModel
from svc_dist.plan.model import Plan
from svc_dist.recipe.documents import ResolvedDocument, title
from svc_dist.run.devices.chosen import on_cluster, settings_of
from svc_dist.run.early_imports import import_torch
from svc_dist.run.host import detect_device, identify_gpu
from svc_dist.run.options import Options
from svc_dist.run.session import (
    MergeSummary,
    already_complete,
    discard,
    held,
    leave_complete,
    planning,
    refuse_foreign,
    refuse_nesting,
    require_free,
    run_merge,
    run_planned,
)
from svc_dist.run.signals.stopping import signals
from svc_dist.run_folder.documents.choices import with_recorded_choices
from svc_dist.run_folder.documents.records import (
    DocumentRecord,
    document_output,
    made_model,
    models_of,
    pending,
    record_documents,
    recorded_documents,
    remove_unneeded,
)
from svc_dist.run_folder.lock import Lock
from svc_dist.run_folder.output import Output
from svc_dist.run_folder.published import OUTPUTS_FILE, completed, own_files, recorded_models, require_shards
from svc_dist.run_folder.report import PublishedMerge
from svc_dist.run_folder.starts.changed import changes, other_merge, other_run, planned_again

_log = logging.getLogger("svc_dist")


def run_documents(documents: Sequence[ResolvedDocument], output: str, options: Options) -> MergeSummary:
    """Start or resume the merges of one or several documents, or detect that they are done. See ``api.merge``."""
    if len(documents) == 1:
        return run_merge(documents[0].recipe, output, options)
    began = time.monotonic()
    whole = Output(output, documents[-1].recipe.access)
    import_torch(options)
    exists = whole.exists()
    restart = exists and options.restart
    if exists and not restart:
        documents = with_recorded_choices(documents, whole)
    results = [document_output(whole, document.name, True) for document in documents if document.result]
    published = [completed(result) for result in results] if exists and not restart else [None]
    complete = [one for one in published if one is not None]
    if len(complete) == len(results) and not whole.journal.is_there():
        return _already_complete(documents, whole, complete, options, began)
    with held(whole) as lock, on_cluster(options) as options:
        with planning(whole):
            run = _Run(documents, whole, options, restart)
        return run.finish(lock, began)


def summary_of_complete(
    documents: Sequence[ResolvedDocument], whole: Output, options: Options, began: float
) -> MergeSummary | None:
    """The summary of these merges where an output holds them, complete, and whose lock nobody needs; else None.

    Raises OtherMergeError where it holds others.
    """
    if len(documents) == 1:
        recipe, published = documents[0].recipe, completed(whole)
        if published is None:
            return None
        recipe = located(recipe, recorded_models(whole) if recipe.hub_ids else ())
        return already_complete(recipe, whole, published, options, began)
    results = [completed(document_output(whole, document.name, True)) for document in documents if document.result]
    complete = [one for one in results if one is not None]
    return _already_complete(documents, whole, complete, options, began) if len(complete) == len(results) else None


class _Run:
    """A run of several documents whose lock is held: everything is planned, and nothing is merged yet."""

    def __init__(self, documents: Sequence[ResolvedDocument], whole: Output, options: Options, restart: bool) -> None:
        self.whole, self.options = whole, options
        old = _old_documents(whole, restart)
        recorded = () if restart else old or ()
        self.documents = [replace(one, recipe=located(one.recipe, models_of(recorded))) for one in documents]
        for document in self.documents:
            refuse_nesting(whole, document.recipe.locations)
        settings = settings_of(options, recorded[0].settings if recorded else None)
        self.plans = plan_documents(self.documents, settings)
        self.records = [
            DocumentRecord.of(document, plan) for document, plan in zip(self.documents, self.plans, strict=True)
        ]
        if recorded:
            self._require_same(recorded)
            return
        if not restart and whole.journal.is_there():
            raise other_run(whole, "  recipe: had one document, has several")
        self._begin(old or (), restart)

    def _require_same(self, recorded: Sequence[DocumentRecord]) -> None:
        """Raise ChangedInputError where the recorded documents are others."""
        lines: list[str] = []
        if [one.name for one in recorded] != [one.name for one in self.records]:
            names = (", ".join(one.name or "(no name)" for one in records) for records in (recorded, self.records))
            lines.append("  documents: were {}, are {}".format(*names))
        else:
            for old, new in zip(recorded, self.records, strict=True):
                found = [line for line in changes(old, new).splitlines() if not line.startswith("  document://")]
                if old.fingerprint != new.fingerprint and found:
                    lines += [f"  {title(new.name)}:", *(f"  {line}" for line in found)]
        if [one.fingerprint for one in recorded] != [one.fingerprint for one in self.records]:
            raise other_run(self.whole, "\n".join(lines))

    def _begin(self, old: Sequence[DocumentRecord], restart: bool) -> None:
        """Record the documents in an empty output. ``restart``: after the removal of what an earlier run made."""
        outputs = [record.output(self.whole) for record in self.records if record.result]
        if restart:
            earlier = [record.output(self.whole) for record in old if record.result]
            for one in {each.location: each for each in (*earlier, *outputs)}.values():
                if one.location != self.whole.location and one.exists():
                    discard(one)
            discard(self.whole)
        for document, plan in zip(self.documents, self.plans, strict=True):
            if document.result:
                result = document_output(self.whole, document.name, True)
                if not self._is_done(result, plan):
                    refuse_foreign(result, document.recipe)
                    require_free(result, plan)
        self.whole.journal.record_paths(self.documents[-1].recipe.path_values)
        record_documents(self.whole, self.records)

    def _is_done(self, result: Output, plan: Plan) -> bool:
        """Whether an earlier run has made this result. Raises ChangedInputError where it has made another one."""
        done = completed(result)
        if done is not None and done.fingerprint != plan.fingerprint:
            raise other_merge(result, done, plan)
        return done is not None

    def finish(self, lock: Lock, began: float) -> MergeSummary:
        """Run the documents that are left. SIGTERM, SIGINT or the end of the time limit stops between them, too."""
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
        made = {name: made_model(self.whole, *plans[name]) for name in record.uses}
        output = record.output(self.whole, replace(self.documents[number].recipe.access, models=made))
        old = output.journal.plan()
        if old is not None and old.fingerprint != plan.fingerprint:
            raise other_run(output, changes(old, plan))
        if old is None:
            output.journal.record_recipe(self.documents[number].recipe.text)
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

    def _results(self) -> list[tuple[DocumentRecord, Plan]]:
        return [(one, plan) for one, plan in zip(self.records, self.plans, strict=True) if one.result]

    def _summary(self, summaries: dict[str | None, MergeSummary], began: float) -> MergeSummary:
        each = [
            summaries.get(record.name) or _done(plan, record.output(self.whole).location)
            for record, plan in zip(self.records, self.plans, strict=True)
        ]
        return _sum(each, self.whole.location, time.monotonic() - began)


def _old_documents(whole: Output, restart: bool) -> tuple[DocumentRecord, ...] | None:
    """The documents of an earlier run; with ``restart`` none where they cannot be read."""
    with contextlib.suppress(DamagedInputError) if restart else contextlib.nullcontext():
        return recorded_documents(whole)
    return None


def _already_complete(
    documents: Sequence[ResolvedDocument],
    whole: Output,
    published: Sequence[PublishedMerge],
    options: Options,
    began: float,
) -> MergeSummary:
    results = [document_output(whole, document.name, True) for document in documents if document.result]
    models: tuple[PlannedModel, ...] = ()
    if any(document.recipe.hub_ids for document in documents):
        models = tuple(model for result in results for model in recorded_models(result))
    settings = options.settings.resolve(published[0].settings, detect_device, identify_gpu)
    with planned_again(whole):
        plans = plan_documents(documents, settings, models)
    of_results = [plan for plan, document in zip(plans, documents, strict=True) if document.result]
    for result, plan, one in zip(results, of_results, published, strict=True):
        if plan.fingerprint != one.fingerprint:
            raise other_merge(result, one, plan)
        require_shards(result, plan)
    leave_complete(whole)
    return _sum([_done(plan, whole.location) for plan in plans], whole.location, time.monotonic() - began)


def _done(plan: Plan, location: str) -> MergeSummary:
    """The summary of a document that earlier starts merged."""
    units = len(plan.units)
    sizes = (len(plan.tensors), len(plan.shards), units, units, 0, plan.bytes_in, plan.bytes_out)
    return MergeSummary(location, plan.fingerprint, *sizes, 0.0, "none", plan.settings.precision, plan.warnings)


def _sum(each: Sequence[MergeSummary], location: str, seconds: float) -> MergeSummary:
    """The summary of all documents: tensors and shards are those of the last one."""
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
        documents=tuple(each),
    )


def _fingerprint(plans: Sequence[Plan]) -> str:
    return hashlib.sha256(" ".join(plan.fingerprint for plan in plans).encode()).hexdigest()
