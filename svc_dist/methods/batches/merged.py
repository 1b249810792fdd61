"""Many small matrices merged and calibrated together, where method, calibration and device allow it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from svc_dist.linalg.devices.grain import on_the_cpu
from svc_dist.methods.batches.forms import Batch
from svc_dist.methods.batches.matrices import Alone, leading_of_each
from svc_dist.methods.deltas import TaskDeltas
from svc_dist.methods.merged import TOP
from svc_dist.methods.method import load
from svc_dist.methods.registry import CALIBRATIONS, METHODS


def merged_batch(
    deltas: TaskDeltas, method: str, parameters: Mapping[str, Any], calibration: Mapping[str, Any] | None
) -> tuple[Tensor, list[dict[str, Any]]] | None:
    """The merged deltas of ``(b, m, n)`` and a summary of each; None where they must be merged one by one.

    ``deltas`` lie on a device, as they are stored.
    """
    form, calibrate = METHODS[method].batched, None if calibration is None else CALIBRATIONS[calibration["method"]]
    if form is None or (calibrate is not None and calibrate.batched is None) or not _suits(deltas):
        return None
    try:
        batch: Batch = load(form)(deltas, **_each(parameters, METHODS[method].several))
        if calibrate is not None and calibration is not None:
            settings = {key: value for key, value in calibration.items() if key != "method"}
            batch = load(calibrate.batched or "")(batch, deltas, **_each(settings, calibrate.several))
    except Alone:
        return None
    first = deltas.offset // (deltas.numel // len(batch.summaries))
    summaries = [{"matrix": first + number} | one for number, one in enumerate(batch.summaries)]
    if "sigma" not in summaries[0]:
        leading = leading_of_each(batch.delta, TOP).cpu().tolist()
        summaries = [one | {"sigma": values} for one, values in zip(summaries, leading, strict=True)]
    return batch.delta, summaries


def _suits(deltas: TaskDeltas) -> bool:
    views = [deltas.base_view, *deltas.experts]
    return not (
        deltas.low_memory
        or deltas.precision == "float64"
        or any(change is not None for change in deltas.changes)
        or any(view is None or on_the_cpu(view.device) or view.dtype.itemsize != 2 for view in views)
    )


def _each(parameters: Mapping[str, Any], several: str | None) -> dict[str, Any]:
    return {key: [value] if key == several else value for key, value in parameters.items()}
