"""The commands as Python functions, and the mathematics for tensors in memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from svc_dist.errors import RecipeError, require_choice
from svc_dist.linalg.precision import Precision
from svc_dist.methods.method import Method
from svc_dist.methods.registry import CALIBRATIONS, METHODS
from svc_dist.plan.make import make_plan as _make_plan
from svc_dist.plan.model import Plan
from svc_dist.plan.settings import Device, Settings, SettingsRequest
from svc_dist.plan.stages import plan_stages
from svc_dist.recipe.load import RecipeSource, load_recipe, load_stages
from svc_dist.run.host import detect_device
from svc_dist.run.options import ExecutorKind, Limits, Options
from svc_dist.storage.access import DEFAULT_ACCESS, Access

if TYPE_CHECKING:
    from torch import Tensor

    from svc_dist.forecast.prediction import Prediction
    from svc_dist.methods.calibration.svc import Calibrated
    from svc_dist.run.session import MergeSummary
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
    max_shard_size: str | int | None = None,
    changes: Mapping[str, Any] | None = None,
    scratch: str | None = None,
    access: Access = DEFAULT_ACCESS,
    restart: bool = False,
    grace: float = 60.0,
    max_runtime: float | None = None,
    unit_deadline: float = 1800.0,
    node_timeout: float = 1800.0,
    progress: bool = False,
) -> MergeSummary:
    """Merge the experts of a recipe into a model at ``output``, a folder or URL.

    The same call again resumes an unfinished merge, and detects a complete one.

    ``recipe``: a file, or the mapping that its YAML parses to (then paths are relative to the working folder). The
    options are those of ``svc-dist merge --help``; ``changes`` are those of its ``--set``, like
    ``{"parameters.lambda": 0.4}``; ``access``: how to reach storages that the recipe does not mention. Raises
    SvcDistError; its ``exit_code`` is that of the command.
    """
    from svc_dist.run.session import run_merge

    settings = SettingsRequest(precision, threads_per_unit, device)
    limits = Limits(grace, max_runtime, unit_deadline, node_timeout)
    options = Options(
        executor=executor, address=address, slots=slots, settings=settings, scratch=scratch, restart=restart,
        limits=limits, progress=progress,
    )  # fmt: skip
    resolved = load_recipe(recipe, access=access, max_shard_size=max_shard_size, changes=changes)
    return run_merge(resolved, str(output), options)


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
    stages = load_stages(recipe, access=access, max_shard_size=max_shard_size, changes=changes)
    recorded, models = None, None
    if output is not None:
        from svc_dist.run_folder.output import Output
        from svc_dist.run_folder.published import recorded_models, recorded_settings

        earlier = Output(str(output), stages[-1].recipe.access)
        recorded = recorded_settings(earlier)
        models = recorded_models(earlier) if any(stage.recipe.hub_ids for stage in stages) else None
    return plan_stages(stages, request.resolve(recorded, detect_device), models or ())


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


def merge_deltas(
    deltas: Iterable[Tensor],
    method: str,
    *,
    calibrate: str | Mapping[str, Any] | None = None,
    precision: str = "float64",
    **parameters: Any,
) -> Tensor:
    """Merge the K task deltas of one tensor, all of one shape.

    Three dimensions are a batch of matrices, more are a convolution kernel: one matrix ``(out, -1)``.
    ``method`` and ``parameters`` are as in a recipe (``weight=0.3`` for all, ``weight=[0.3, 0.5]`` one per expert);
    ``calibrate``: ``"svc"`` or ``{"method": "svc", "alpha": 1.0, "side": "left"}``. Returns a tensor of that shape in
    the compute dtype of ``precision``, scaled by ``lambda``. Raises RecipeError, NumericsError.
    """
    import torch

    from svc_dist.linalg.finite import require_finite
    from svc_dist.linalg.given import given_deltas
    from svc_dist.linalg.threads import threads_fixed
    from svc_dist.methods.apply import ResultParameters, merged_chunks
    from svc_dist.methods.deltas import Copy, TaskDeltas
    from svc_dist.methods.low_rank import LowRank

    precision = Precision.of(precision)
    deltas = given_deltas(deltas)
    require_choice("method", method, METHODS)
    complete = _parameters(METHODS[method], parameters, len(deltas))
    scale = complete.pop("lambda", 1.0)
    calibration = _calibration(calibrate, len(deltas))
    shape = deltas[0].shape
    batch: tuple[int, int, int] | None = None
    if len(shape) > 1:
        batch = (shape[0], shape[1], shape[2]) if len(shape) == 3 else (1, shape[0], math.prod(shape[1:]))
    if batch is None and METHODS[method].family == "spectral":
        raise RecipeError(f"{method} takes matrices; these deltas have shape {list(shape)}")
    device = str(deltas[0].device)
    row = batch[2] if batch is not None and METHODS[method].whole_rows else None
    data = TaskDeltas([delta.contiguous() for delta in deltas], precision=precision, device=device, row=row)
    result = torch.zeros(shape, dtype=data.dtype, device=device)
    flat = result.view(-1)
    results = [ResultParameters(complete, calibration)]
    with threads_fixed():
        for _, (start, end, merged, _) in merged_chunks(data, method, results, batch):
            if isinstance(merged, Copy):
                merged = data.chunk(start, end)[merged.expert]
            if isinstance(merged, LowRank):
                merged = merged.dense(data.dtype, device)
            if merged is not None:
                torch.mul(merged, scale, out=flat[start:end])
    require_finite(result, f"the delta merged by {method}")
    return result


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


def _parameters(method: Method, keywords: Mapping[str, Any], experts: int) -> dict[str, Any]:
    """Complete parameters from keywords; a list has one value for each expert."""
    shared = {name.rstrip("_"): value for name, value in keywords.items()}  # lambda_, as lambda is Python's keyword
    method.refuse_unknown(shared)
    by_expert: list[dict[str, Any]] = [{} for _ in range(experts)]
    for parameter in method.all_parameters:
        values = shared.get(parameter.name)
        if not parameter.per_model or not isinstance(values, list | tuple):
            continue
        if len(values) != experts:
            raise RecipeError(f"{method.name}: {len(values)} values of {parameter.name} for {experts} deltas")
        for settings, value in zip(by_expert, shared.pop(parameter.name), strict=True):
            settings[parameter.name] = value
    return method.complete(experts, shared, by_expert)


def _calibration(given: object, experts: int) -> dict[str, Any] | None:
    """The complete settings of a calibration from its name or settings; None for none."""
    settings = {"method": given} if isinstance(given, str) else given
    if settings is None:
        return None
    if not isinstance(settings, Mapping):
        raise RecipeError(f"calibrate is {given!r}, but must be a name, or a mapping with the name as its `method`")
    if settings.get("method") == "none":
        return None
    require_choice("calibrate", settings.get("method"), CALIBRATIONS)
    return CALIBRATIONS[settings["method"]].complete(settings, experts)
