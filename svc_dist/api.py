"""The commands as Python functions, and the mathematics for tensors in memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from svc_dist.errors import RecipeError
from svc_dist.linalg.precision import Precision
from svc_dist.methods.method import Method
from svc_dist.methods.registry import CALIBRATIONS, METHODS
from svc_dist.plan.make import make_plan as _make_plan
from svc_dist.plan.model import Plan
from svc_dist.plan.settings import Device, SettingsRequest
from svc_dist.recipe.load import load_recipe
from svc_dist.recipe.resolved import ResolvedRecipe
from svc_dist.run.options import ExecutorKind
from svc_dist.storage.access import DEFAULT_ACCESS, Access

if TYPE_CHECKING:
    from torch import Tensor

    from svc_dist.forecast.prediction import Prediction
    from svc_dist.methods.calibration.svc import Calibrated
    from svc_dist.run.session import MergeSummary
    from svc_dist.run_folder.report import MergeReport


def merge(
    recipe: str | Path | Mapping[str, Any] | ResolvedRecipe,
    output: str | Path,
    *,
    executor: str = ExecutorKind.AUTO,
    address: str | None = None,
    slots: int | None = None,
    device: str = Device.AUTO,
    precision: str | None = None,
    threads_per_unit: int | None = None,
    max_shard_size: str | int | None = None,
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

    ``recipe``: a file, or what its YAML would parse to (relative paths then count from the working folder). The options
    are those of ``svc-dist merge --help``; ``access`` says how storages are reached that the recipe says nothing of.
    Raises SvcDistError; its ``exit_code`` is what the command would end with.
    """
    from svc_dist.run.options import Limits, Options
    from svc_dist.run.session import run_merge

    options = Options(
        executor=executor,
        address=address,
        slots=slots,
        settings=SettingsRequest(precision, threads_per_unit, device),
        scratch=scratch,
        restart=restart,
        limits=Limits(grace, max_runtime, unit_deadline, node_timeout),
        progress=progress,
    )
    return run_merge(load_recipe(recipe, access=access, max_shard_size=max_shard_size), str(output), options)


def make_plan(
    recipe: str | Path | Mapping[str, Any] | ResolvedRecipe,
    output: str | Path | None = None,
    *,
    precision: str | None = None,
    threads_per_unit: int | None = None,
    device: str = Device.AUTO,
    max_shard_size: str | int | None = None,
    access: Access = DEFAULT_ACCESS,
) -> Plan:
    """What a merge would do, from headers alone.

    ``precision``, ``threads_per_unit`` and ``device`` are what ``merge`` would take: those of the run in ``output``
    where the arguments leave them open, else the defaults and the best device of this machine. Raises RecipeError,
    PlanError, DamagedInputError, StorageError.
    """
    from svc_dist.run.host import detect_device

    request = SettingsRequest(precision, threads_per_unit, device)
    resolved = load_recipe(recipe, access=access, max_shard_size=max_shard_size)
    recorded = None
    if output is not None:
        from svc_dist.run_folder.output import Output
        from svc_dist.run_folder.published import recorded_settings

        recorded = recorded_settings(Output(str(output), resolved.access))
    return _make_plan(resolved, request.resolve(recorded, detect_device))


def inspect(
    recipe: str | Path | Mapping[str, Any] | ResolvedRecipe,
    layers: str | None = None,
    *,
    access: Access = DEFAULT_ACCESS,
    slots: int | None = None,
    precision: str | None = None,
    threads_per_unit: int | None = None,
    device: str = Device.AUTO,
    scratch: str | None = None,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> MergeReport:
    """Decompose the plain sum of a recipe's task deltas as SVC would, and return a report without a result.

    ``layers``: ``"0,10,20-23"``, or all. See ``report.diagnosis.Diagnosis`` for what can be read from it. Raises
    RecipeError, PlanError, DamagedInputError, StorageError.
    """
    from svc_dist.checks.over_counting import inspect as look
    from svc_dist.checks.over_counting import parse_layers

    wanted = None if layers is None else parse_layers(layers)
    request = SettingsRequest(precision, threads_per_unit, device)
    resolved = load_recipe(recipe, access=access)
    return look(resolved, wanted, slots=slots, settings=request, scratch=scratch, progress=progress)


def predict(
    recipe: str | Path | Mapping[str, Any] | ResolvedRecipe,
    cluster: str,
    *,
    precision: str | None = None,
    max_shard_size: str | int | None = None,
    access: Access = DEFAULT_ACCESS,
) -> Prediction:
    """What a merge would take on a cluster, simulated from its plan: seconds, what bounds them, bytes, requests.

    ``cluster``: ``nodes=4,gpus=8,gpu=h100,net=25Gbps``, ``nodes=2,cpus=16`` or ``host=FILE,slots=2``, as of
    ``svc-dist plan --cluster``. Raises RecipeError and what ``make_plan`` does.
    """
    from svc_dist.forecast.cluster import parse_cluster
    from svc_dist.forecast.prediction import predict as simulated

    machines = parse_cluster(cluster)
    plan = make_plan(
        recipe,
        precision=precision,
        threads_per_unit=machines.threads_per_unit,
        device=machines.device,
        max_shard_size=max_shard_size,
        access=access,
    )
    return simulated(plan, machines)


def merge_deltas(
    deltas: Sequence[Tensor],
    method: str,
    *,
    calibrate: str | Mapping[str, Any] | None = None,
    precision: str = "float64",
    **parameters: Any,
) -> Tensor:
    """The merged delta of one tensor from its K task deltas, all of one shape.

    Three dimensions are a batch of matrices, more are a convolution kernel: one matrix ``(out, -1)``.
    ``method`` and ``parameters`` as in a recipe (``weight=0.3`` for all, ``weight=[0.3, 0.5]`` one per expert);
    ``calibrate``: ``"svc"`` or ``{"method": "svc", "alpha": 1.0, "side": "left"}``. Returns a tensor of that shape in
    the compute dtype of ``precision``, times ``lambda`` where given. Raises RecipeError, NumericsError.
    """
    import torch

    from svc_dist.linalg.finite import require_finite
    from svc_dist.linalg.threads import threads_fixed
    from svc_dist.methods.apply import ResultParameters, merged_chunks
    from svc_dist.methods.deltas import Copy, TaskDeltas
    from svc_dist.methods.low_rank import LowRank

    precision = Precision.of(precision)
    if not deltas or any(delta.shape != deltas[0].shape for delta in deltas):
        raise RecipeError("merge_deltas wants one or more deltas of the same shape")
    if method not in METHODS:
        raise RecipeError(f"there is no merge method '{method}'; known: {', '.join(METHODS)}")
    complete = _parameters(METHODS[method], parameters, len(deltas))
    scale = complete.pop("lambda", 1.0)
    calibration = None
    if calibrate is not None and calibrate != "none":
        given = {"method": calibrate} if isinstance(calibrate, str) else dict(calibrate)
        name = given.get("method")
        if name not in CALIBRATIONS:
            raise RecipeError(f"there is no calibration '{name}'; known: {', '.join(CALIBRATIONS)}")
        calibration = CALIBRATIONS[str(name)].complete(given, len(deltas))
    shape = deltas[0].shape
    batch: tuple[int, int, int] | None = None
    if len(shape) == 3:
        batch = (shape[0], shape[1], shape[2])
    elif len(shape) > 1:
        batch = (1, shape[0], math.prod(shape[1:]))
    if batch is None and METHODS[method].family == "spectral":
        raise RecipeError(f"{method} takes matrices; these deltas have shape {list(shape)}")
    device = str(deltas[0].device)
    taken = TaskDeltas([delta.detach().contiguous() for delta in deltas], precision=precision, device=device)
    result = torch.zeros(shape, dtype=taken.dtype, device=device)
    flat = result.view(-1)
    results = [ResultParameters(complete, calibration)]
    with threads_fixed():
        for _, (start, end, merged, _) in merged_chunks(taken, method, results, batch):
            if isinstance(merged, Copy):
                merged = taken.chunk(start, end)[merged.expert]
            if isinstance(merged, LowRank):
                merged = merged.dense(taken.dtype, device)
            if merged is not None:
                torch.mul(merged, scale, out=flat[start:end])
    require_finite(result, f"the delta merged by {method}")
    return result


def calibrate(
    merged: Tensor,
    deltas: Sequence[Tensor],
    alpha: float | None = None,
    side: str = "left",
    *,
    precision: str = "float64",
) -> Calibrated:
    """SVC on a merged delta ``(m, n)`` against the K task deltas it was made from.

    Returns the calibrated ``delta`` with ``sigma`` (singular values before, descending) and ``gamma`` (their factors).
    Li et al. 2026, arXiv 2602.05536, Algorithm 1. Raises RecipeError, NumericsError.
    """
    from svc_dist.linalg.threads import threads_fixed
    from svc_dist.methods.deltas import TaskDeltas
    from svc_dist.methods.merged import Merged

    precision = Precision.of(precision)
    if merged.ndim != 2 or not deltas or any(delta.shape != merged.shape for delta in deltas):
        raise RecipeError("calibrate wants a matrix and one or more deltas of its shape")
    declared = CALIBRATIONS["svc"]
    complete = declared.complete({"side": side, "alpha": alpha}, len(deltas))
    device = str(merged.device)
    taken = TaskDeltas([delta.detach() for delta in deltas], precision=precision, device=device)
    given = Merged(merged.detach().to(taken.dtype))
    parameters = {name: value for name, value in complete.items() if name != "method"}
    with threads_fixed():
        _, result = next(declared.results([parameters], given, taken))
    calibrated: Calibrated = result
    return calibrated


def _parameters(method: Method, given: Mapping[str, Any], experts: int) -> dict[str, Any]:
    """Complete parameters from keywords, of which a list holds one value for each expert."""
    given = {name.rstrip("_"): value for name, value in given.items()}  # lambda_ for Python's keyword
    method.refuse_unknown(given)
    by_expert: list[dict[str, Any]] = [{} for _ in range(experts)]
    for name, values in list(given.items()):
        parameter = method.parameter(name)
        if parameter is None or not parameter.per_model or not isinstance(values, list | tuple):
            continue
        if len(values) != experts:
            raise RecipeError(f"{method.name}: {len(values)} values of {name} for {experts} deltas")
        for own, value in zip(by_expert, given.pop(name), strict=True):
            own[name] = value
    return method.complete(experts, given, by_expert)
