"""The merge of one tensor's task deltas in memory."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from svc_dist.errors import RecipeError, require_choice
from svc_dist.linalg.finite import require_finite
from svc_dist.linalg.given import given_deltas
from svc_dist.linalg.precision import Precision
from svc_dist.linalg.threads import threads_fixed
from svc_dist.methods.apply import ResultParameters, merged_chunks
from svc_dist.methods.deltas import Copy, TaskDeltas
from svc_dist.methods.low_rank import LowRank
from svc_dist.methods.registry import METHODS
from svc_dist.run.memory.keywords import complete_calibration, complete_parameters


def merged_delta(
    deltas: Iterable[Tensor], method: str, calibrate: object, precision: Precision, parameters: Mapping[str, Any]
) -> Tensor:
    """The merged delta of a tensor. See ``api.merge_deltas``."""
    deltas = given_deltas(deltas)
    require_choice("method", method, METHODS)
    complete = complete_parameters(METHODS[method], parameters, len(deltas))
    scale = complete.pop("lambda", 1.0)
    calibration = complete_calibration(calibrate, len(deltas))
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
    if not result.numel():
        return result
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
