"""The commands that take a recipe, as functions: merge it, plan it, inspect its experts, predict its time, examine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from svc_dist.linalg.precision import Precision
from svc_dist.plan.documents import plan_documents
from svc_dist.plan.make import make_plan as _make_plan
from svc_dist.plan.model import Plan
from svc_dist.plan.settings import Device, Settings, SettingsRequest
from svc_dist.recipe.load import RecipeSource, load_documents, load_recipe
from svc_dist.run.host import detect_device, identify_gpu
from svc_dist.run.options import ExecutorKind, Limits, Options
from svc_dist.storage.access import DEFAULT_ACCESS, Access

if TYPE_CHECKING:
    from svc_dist.checks.examination import Examination
    from svc_dist.forecast.prediction import Prediction
    from svc_dist.report.readable import Report
    from svc_dist.run.progress import MergeProgress
    from svc_dist.run.series.nightly import Nightly
    from svc_dist.run.session import MergeSummary
    from svc_dist.run.signals.reporter import Signals

#: A recipe's file, what its YAML parses to (a list for several documents), or a recipe that is resolved already.
Recipe = RecipeSource


def merge(
    recipe: Recipe,
    output: str | Path,
    *,
    executor: str = ExecutorKind.AUTO,
    address: str | None = None,
    slots: int | None = None,
    device: str = Device.AUTO,
    precision: str | None = None,
    threads_per_unit: int | None = None,
    mixed_gpus: bool = False,
    max_shard_size: str | int | None = None,
    changes: Mapping[str, Any] | None = None,
    scratch: str | None = None,
    access: Access = DEFAULT_ACCESS,
    restart: bool = False,
    grace: float = 60.0,
    max_runtime: float | None = None,
    unit_deadline: float = 120.0,
    node_timeout: float = 1800.0,
    progress: bool = False,
    on_progress: Callable[[MergeProgress], object] | None = None,
    evaluate: bool = True,
    run_commands: bool = False,
    nightly: Nightly | None = None,
    signals: Signals | None = None,
    staging: str | Path | None = None,
    public: bool = False,
) -> MergeSummary:
    """Merge the experts of a recipe into a model at ``output``, a folder or URL.

    The same call again resumes an unfinished merge, and detects a complete one.

    ``recipe``: a file, or the mapping that its YAML parses to (then paths are relative to the working folder). The
    options are those of ``svc-dist merge --help``; ``changes`` are those of its ``--set``, like
    ``{"parameters.lambda": 0.4}``; ``access``: how to reach storages that the recipe does not mention; ``progress``:
    show a bar, on a terminal or in a notebook; ``on_progress``: called with a ``MergeProgress`` (``units_done``,
    ``units``, ``bytes_done``, ``bytes``, ``share``, ``seconds_left``) in the calling thread: at the start, about every
    half second and at the end; what it raises ends the merge, which the same call resumes; ``evaluate``: whether the
    recipe's commands score the result; ``run_commands``: also those of a recipe that is no local file;
    ``nightly``: ``--if-changed``, ``--latest`` and ``--keep``, for an output with ``{date}``; ``signals``: whom to tell
    the result; ``staging`` and ``public``: for an output on a hub (``hf://owner/name``), where it is made first, and
    whether a public repository is meant. Raises SvcDistError; its ``exit_code`` is that of the command.
    """
    from svc_dist.run.hub.staged import Staging, run_to
    from svc_dist.run.series.nightly import Nightly
    from svc_dist.run.signals.reporter import reporting
    from svc_dist.scoring.evaluate import checks_of

    with reporting(signals, str(output)) as reporter:
        settings = SettingsRequest(precision, threads_per_unit, device, mixed_gpus)
        limits = Limits(grace, max_runtime, unit_deadline, node_timeout)
        options = Options(
            executor=executor, address=address, slots=slots, settings=settings, scratch=scratch, restart=restart,
            limits=limits, progress=progress, on_progress=on_progress, watch=reporter.watch,
        )  # fmt: skip
        load = partial(load_documents, recipe, access=access, max_shard_size=max_shard_size, changes=changes)
        checks = checks_of(recipe, evaluate, run_commands)
        first = Staging(None if staging is None else str(staging), public)
        reporter.summary = run_to(load, str(output), first, options, nightly or Nightly(), checks)
    return reporter.summary


def make_plan(
    recipe: Recipe,
    output: str | Path | None = None,
    *,
    precision: str | None = None,
    threads_per_unit: int | None = None,
    device: str = Device.AUTO,
    max_shard_size: str | int | None = None,
    changes: Mapping[str, Any] | None = None,
    access: Access = DEFAULT_ACCESS,
) -> Plan:
    """Plan a merge from headers alone; of several documents in a recipe, the merge that is made last.

    Where ``precision``, ``threads_per_unit`` and ``device`` are not set, they are those of the run in ``output``, or
    else the defaults and the best device of this machine. ``changes`` to the recipe are as in ``merge``. Raises
    RecipeError, PlanError, DamagedInputError, StorageError.
    """
    return make_plans(
        recipe, output, precision=precision, threads_per_unit=threads_per_unit, device=device,
        max_shard_size=max_shard_size, changes=changes, access=access,
    )[-1]  # fmt: skip


def make_plans(
    recipe: Recipe,
    output: str | Path | None = None,
    *,
    precision: str | None = None,
    threads_per_unit: int | None = None,
    device: str = Device.AUTO,
    max_shard_size: str | int | None = None,
    changes: Mapping[str, Any] | None = None,
    access: Access = DEFAULT_ACCESS,
) -> list[Plan]:
    """Plan every merge of a recipe with several documents, each after those whose models it uses.

    See ``make_plan`` for the arguments and the errors (SvcDistError).
    """
    request = SettingsRequest(precision, threads_per_unit, device)
    load = partial(load_documents, recipe, access=access, max_shard_size=max_shard_size, changes=changes)
    recorded, models = None, None
    if output is None:
        documents = load()
    else:
        from svc_dist.run_folder.documents.choices import with_recorded_choices
        from svc_dist.run_folder.documents.places import placed
        from svc_dist.run_folder.documents.records import settings_of_run
        from svc_dist.run_folder.output import Output
        from svc_dist.run_folder.published import recorded_models

        documents, location = placed(load, str(output))
        earlier = Output(location, documents[-1].recipe.access)
        recorded = settings_of_run(earlier)
        documents = tuple(with_recorded_choices(documents, earlier))
        models = recorded_models(earlier) if any(document.recipe.hub_ids for document in documents) else None
    return plan_documents(documents, request.resolve(recorded, detect_device, identify_gpu), models or ())


def inspect(
    recipe: Recipe,
    layers: str | None = None,
    *,
    changes: Mapping[str, Any] | None = None,
    access: Access = DEFAULT_ACCESS,
    slots: int | None = None,
    precision: str | None = None,
    threads_per_unit: int | None = None,
    device: str = Device.AUTO,
    scratch: str | None = None,
    progress: bool = False,
    on_progress: Callable[[MergeProgress], object] | None = None,
) -> Report:
    """Decompose the plain sum of a recipe's task deltas as SVC would, and return a report without a result.

    ``layers``: such as ``"0,10,20-23"``; None for all. ``changes``, ``progress``, ``on_progress``: as in ``merge``. The
    report's ``verdict`` says in words what the sum over-counts; a notebook shows it with a table. Raises RecipeError,
    PlanError, DamagedInputError, StorageError.
    """
    from svc_dist.checks.over_counting import inspect as analyse
    from svc_dist.report.readable import Report

    settings = SettingsRequest(precision, threads_per_unit, device)
    resolved = load_recipe(recipe, access=access, changes=changes)
    report = analyse(
        resolved, layers, slots=slots, settings=settings, scratch=scratch, progress=progress, on_progress=on_progress
    )  # fmt: skip
    return Report.of(report)


def doctor(
    recipe: Recipe,
    output: str | Path,
    *,
    precision: str | None = None,
    threads_per_unit: int | None = None,
    device: str = Device.AUTO,
    max_shard_size: str | int | None = None,
    slots: int | None = None,
    scratch: str | None = None,
    staging: str | Path | None = None,
    public: bool = False,
    changes: Mapping[str, Any] | None = None,
    access: Access = DEFAULT_ACCESS,
) -> Examination:
    """Check in seconds whether a merge with these options can run here; nothing is merged, no weight is read.

    It checks storages, disk space, memory, devices and versions. ``ok`` says whether a merge can run, ``findings`` has
    one entry for each check, with the error that a merge would meet. ``staging``, ``public``: as in ``merge``. Raises
    RecipeError when the recipe is wrong.
    """
    from svc_dist.checks.doctor import examine
    from svc_dist.checks.examination import Examination
    from svc_dist.run.hub.staged import Staging

    settings = SettingsRequest(precision, threads_per_unit, device)
    return Examination(tuple(examine(
        recipe, str(output), settings, slots=slots, scratch=scratch, max_shard_size=max_shard_size, changes=changes,
        staging=Staging(None if staging is None else str(staging), public), access=access,
    )))  # fmt: skip


def predict(
    recipe: Recipe,
    cluster: str,
    *,
    precision: str | None = None,
    max_shard_size: str | int | None = None,
    changes: Mapping[str, Any] | None = None,
    access: Access = DEFAULT_ACCESS,
) -> Prediction:
    """Simulate a merge on a cluster from its plan: seconds, the limiting resource, bytes, requests.

    ``cluster``: ``nodes=4,gpus=8,gpu=h100,net=25Gbps``, ``nodes=2,cpus=16`` or ``host=FILE,slots=2``, as in
    ``svc-dist plan --cluster``. Raises RecipeError and the errors of ``make_plan``.
    """
    from svc_dist.forecast.cluster import parse_cluster
    from svc_dist.forecast.prediction import predict as simulate

    machines = parse_cluster(cluster)
    settings = Settings(precision or Precision.MIXED, machines.threads_per_unit, machines.device)
    resolved = load_recipe(recipe, access=access, max_shard_size=max_shard_size, changes=changes)
    return simulate(_make_plan(resolved, settings), machines)
