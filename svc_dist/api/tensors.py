"""The mathematics for tensors in memory: state dicts, the deltas of one tensor, a merged delta."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from svc_dist.errors import RecipeError
from svc_dist.linalg.precision import Precision
from svc_dist.methods.registry import CALIBRATIONS
from svc_dist.plan.settings import Device, SettingsRequest
from svc_dist.recipe.edits.given_models import of_given_models
from svc_dist.recipe.load import read_recipe, recipe_from
from svc_dist.run.memory.keywords import recipe_data

if TYPE_CHECKING:
    from torch import Tensor

    from svc_dist.methods.calibration.svc import Calibrated


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
