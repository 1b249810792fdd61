"""The commands as Python functions, and the mathematics for tensors in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from svc_dist.errors import RecipeError
from svc_dist.linalg.precision import Precision
from svc_dist.methods.registry import CALIBRATIONS
from svc_dist.plan.make import make_plan as _make_plan
from svc_dist.plan.model import Plan
from svc_dist.plan.settings import Device, Settings, SettingsRequest
from svc_dist.plan.stages import plan_stages
from svc_dist.recipe.edits.given_models import of_given_models
from svc_dist.recipe.load import RecipeSource, load_recipe, load_stages, read_recipe, recipe_from
from svc_dist.run.host import detect_device, identify_gpu
from svc_dist.run.memory.keywords import recipe_data
from svc_dist.run.options import ExecutorKind, Limits, Options
from svc_dist.storage.access import DEFAULT_ACCESS, Access

if TYPE_CHECKING:
    from torch import Tensor

    from svc_dist.forecast.prediction import Prediction
    from svc_dist.methods.calibration.svc import Calibrated
    from svc_dist.run.series.nightly import Nightly
    from svc_dist.run.session import MergeSummary
    from svc_dist.run.signals.reporter import Signals
    from svc_dist.run_folder.report import MergeReport

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
    evaluate: bool = True,
    run_commands: bool = False,
    nightly: Nightly | None = None,
    signals: Signals | None = None,
) -> MergeSummary:
    """Merge the experts of a recipe into a model at ``output``, a folder or URL.

    The same call again resumes an unfinished merge, and detects a complete one.

    ``recipe``: a file, or the mapping that its YAML parses to (then paths are relative to the working folder). The
    options are those of ``svc-dist merge --help``; ``changes`` are those of its ``--set``, like
    ``{"parameters.lambda": 0.4}``; ``access``: how to reach storages that the recipe does not mention; ``evaluate``:
    whether the recipe's commands score the result; ``run_commands``: also those of a recipe that is no local file;
    ``nightly``: ``--if-changed``, ``--latest`` and ``--keep``, for an output with ``{date}``; ``signals``: whom to tell
    the result. Raises SvcDistError; its ``exit_code`` is that of the command.
    """
    from svc_dist.run.series.nightly import Nightly, run_repeated
    from svc_dist.run.signals.reporter import reporting
    from svc_dist.scoring.evaluate import checks_of

    with reporting(signals, str(output)) as reporter:
        settings = SettingsRequest(precision, threads_per_unit, device, mixed_gpus)
        limits = Limits(grace, max_runtime, unit_deadline, node_timeout)
        options = Options(
            executor=executor, address=address, slots=slots, settings=settings, scratch=scratch, restart=restart,
            limits=limits, progress=progress, watch=reporter.watch,
        )  # fmt: skip
        load = partial(load_stages, recipe, access=access, max_shard_size=max_shard_size, changes=changes)
        checks = checks_of(recipe, evaluate, run_commands)
        reporter.summary = run_repeated(load, str(output), options, nightly or Nightly(), checks)
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
    """Plan every merge of a recipe with several documents, each after those whose models it uses; see ``make_plan``."""
    request = SettingsRequest(precision, threads_per_unit, device)
    load = partial(load_stages, recipe, access=access, max_shard_size=max_shard_size, changes=changes)
    recorded, models = None, None
    if output is None:
        stages = load()
    else:
        from svc_dist.run_folder.output import Output
        from svc_dist.run_folder.published import recorded_models
        from svc_dist.run_folder.stages.places import placed
        from svc_dist.run_folder.stages.records import settings_of_run

        stages, location = placed(load, str(output))
        earlier = Output(location, stages[-1].recipe.access)
        recorded = settings_of_run(earlier)
        models = recorded_models(earlier) if any(stage.recipe.hub_ids for stage in stages) else None
    return plan_stages(stages, request.resolve(recorded, detect_device, identify_gpu), models or ())


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
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> MergeReport:
    """Decompose the plain sum of a recipe's task deltas as SVC would, and return a report without a result.

    ``layers``: such as ``"0,10,20-23"``; None for all. ``changes``: as in ``merge``. ``report.diagnosis.Diagnosis``
    interprets the report. Raises RecipeError, PlanError, DamagedInputError, StorageError.
    """
    from svc_dist.checks.over_counting import inspect as analyse

    settings = SettingsRequest(precision, threads_per_unit, device)
    resolved = load_recipe(recipe, access=access, changes=changes)
    return analyse(resolved, layers, slots=slots, settings=settings, scratch=scratch, progress=progress)


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


def merge_state_dicts(
    base: Mapping[str, Tensor] | None,
    experts: Mapping[str, Mapping[str, Tensor]] | Sequence[Mapping[str, Tensor]],
    recipe: str | Path | Mapping[str, Any] | None = None,
    *,
    method: str | None = None,
    calibrate: str | Mapping[str, Any] | Sequence[str | Mapping[str, Any]] | None = None,
    dtype: str | None = None,
    changes: Mapping[str, Any] | None = None,
    config: Mapping[str, Any] | None = None,
    precision: str | None = None,
    threads_per_unit: int | None = None,
    device: str = Device.AUTO,
    slots: int = 1,
    scratch: str | None = None,
    **parameters: Any,
) -> dict[str, Tensor]:
    """Merge models in memory: the bytes that ``merge`` writes for the same tensors, as tensors on the CPU.

    ``base``: None where the method takes none. ``experts``: by name, or a list (then called ``expert0``, ...); tensors
    may be on any device. ``recipe``: a file or its data; its ``models`` may be left out, or name the experts. In place
    of it ``method``, ``calibrate``, ``dtype`` and ``parameters``: a value for all experts or a list of one for each.
    ``config``: that of the models (``model.config.to_dict()``), for architectures that cannot be told by names.
    ``slots``: units that are computed in parallel; each takes its memory beside the result. Other options are as in
    ``merge``. Raises SvcDistError.
    """
    from svc_dist.run.memory.merge import merge_in_memory

    named = experts if isinstance(experts, Mapping) else {f"expert{n}": one for n, one in enumerate(experts)}
    if (recipe is None) == (method is None) or (recipe is not None and (parameters or calibrate or dtype)):
        raise RecipeError(
            "merge_state_dicts takes either a recipe or a method with its parameters",
            'change a recipe like changes={"parameters.lambda": 0.4}',
            code="in-memory-refused",
        )
    data, origin = read_recipe(recipe or recipe_data([*named], str(method), calibrate, dtype, parameters))
    resolved = recipe_from(of_given_models(data, origin, [*named], base is not None), origin, changes=changes)
    settings = SettingsRequest(precision, threads_per_unit, device)
    return merge_in_memory(resolved, base, named, settings, config=config, slots=slots, scratch=scratch)


def merge_deltas(
    deltas: Iterable[Tensor],
    method: str,
    *,
    calibrate: str | Mapping[str, Any] | Sequence[str | Mapping[str, Any]] | None = None,
    precision: str = "float64",
    **parameters: Any,
) -> Tensor:
    """Merge the K task deltas of one tensor, all of one shape.

    Three dimensions are a batch of matrices, more are a convolution kernel: one matrix ``(out, -1)``.
    ``method`` and ``parameters`` are as in a recipe (``weight=0.3`` for all, ``weight=[0.3, 0.5]`` one per expert);
    ``calibrate``: ``"svc"`` or ``{"method": "svc", "alpha": 1.0, "side": "left"}``, or a list of them, applied in
    order. Returns a tensor of that shape in the compute dtype of ``precision``, scaled by ``lambda``. Raises
    RecipeError, NumericsError.
    """
    from svc_dist.run.memory.deltas import merged_delta

    return merged_delta(deltas, method, calibrate, Precision.of(precision), parameters)


def calibrate(
    merged: Tensor,
    deltas: Iterable[Tensor],
    alpha: float | None = None,
    side: str = "left",
    *,
    basis: Tensor | None = None,
    precision: str = "float64",
) -> Calibrated:
    """Calibrate a merged delta ``(m, n)`` by SVC against its K task deltas.

    Returns the calibrated ``delta`` with ``sigma`` (singular values before, descending) and ``gamma`` (their factors).
    Li et al. 2026, arXiv 2602.05536, Algorithm 1.

    ``basis (m, r)``, or ``(n, r)`` for ``side="right"``: orthonormal directions to calibrate along, which span the
    merged delta. Without it they are the singular vectors of ``merged``. A flat spectrum, such as Iso-C's, has none of
    its own: then a basis is required, or ``merge_deltas(..., calibrate="svc")``, which knows the method's. Raises
    RecipeError, NumericsError.
    """
    from svc_dist.linalg.given import given_deltas, given_tensor
    from svc_dist.linalg.threads import threads_fixed
    from svc_dist.methods.calibration.flat import require_basis, require_distinct
    from svc_dist.methods.deltas import TaskDeltas
    from svc_dist.methods.merged import Merged

    precision = Precision.of(precision)
    merged = given_tensor(merged, "merged")
    if merged.ndim != 2 or not merged.numel():
        raise RecipeError(f"calibrate takes a matrix with entries; merged has shape {list(merged.shape)}")
    deltas = given_deltas(deltas, tuple(merged.shape), merged.device)
    svc = CALIBRATIONS["svc"]
    parameters = svc.complete({"side": side, "alpha": alpha}, len(deltas))
    del parameters["method"]
    data = TaskDeltas(deltas, precision=precision, device=str(merged.device))
    delta = merged if merged.dtype.itemsize > 2 else merged.float()
    with threads_fixed():
        if basis is not None:
            basis = given_tensor(basis, "basis").to(delta)
            require_basis(basis, delta if side == "left" else delta.T)
        _, result = next(svc.results([parameters], Merged(delta, left=basis, right=basis), data))
        if basis is None:
            require_distinct(result)
    calibrated: Calibrated = result
    return calibrated
