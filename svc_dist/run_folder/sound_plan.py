"""Whether a plan that was read refers only to what it has."""

from __future__ import annotations

import math

from svc_dist.checkpoint.dtype import bytes_of
from svc_dist.plan.model import Plan
from svc_dist.plan.tensor import PlannedTensor
from svc_dist.plan.vocabulary.row_maps import RowMaps
from svc_dist.storage.base import is_inside


def require_sound(plan: Plan) -> None:
    """Raise ValueError where a plan refers to what it does not have, or would write outside the output."""
    if not plan.results or not plan.shards or len(plan.shards) % len(plan.results):
        raise ValueError("its results have no shards")
    names = [*(shard.file for shard in plan.shards), *(one.name for one in plan.sidecars)]
    names += [result.path for result in plan.results if result.path]
    if outside := next((name for name in names if not is_inside(name)), None):
        raise ValueError(f"the name {outside!r} lies outside the output")
    models, inputs, kinds = len(plan.models), len(plan.inputs), min(len(one.dispositions) for one in plan.results)
    for tensor in plan.tensors:
        if not (0 <= tensor.shard < plan.count and 0 <= tensor.disposition < kinds):
            raise ValueError(f"the tensor {tensor.name!r} has no shard or disposition")
        if any(source is not None and not 0 <= source.input < inputs for source in tensor.sources):
            raise ValueError(f"the tensor {tensor.name!r} has no input")
        if tensor.maps is not None and not _sound_maps(tensor, tensor.maps):
            raise ValueError(f"the tensor {tensor.name!r} takes rows that its inputs do not have")
    for unit in plan.units:
        if not 0 <= unit.shard < plan.count or any(not 0 <= piece[0] < len(plan.tensors) for piece in unit.pieces):
            raise ValueError(f"the unit {unit.id!r} has no shard or tensor")
    if any(not 0 <= sidecar.source < models for sidecar in plan.sidecars):
        raise ValueError("a sidecar has no model")


def _sound_maps(tensor: PlannedTensor, maps: RowMaps) -> bool:
    """Whether every row of a tensor's row maps is stored."""
    if len(maps.own) != len(tensor.sources) or not 0 <= maps.padding < max(maps.rows, 1):
        return False
    width = math.prod(tensor.shape[1:]) or 1
    for piece in maps.used(0, maps.rows):
        for number, row in piece.of:
            source = tensor.sources[number] if 0 <= number < len(tensor.sources) else None
            stored = 0 if source is None else (source.end - source.start) // bytes_of(source.dtype, width)
            if not 0 <= row <= row + piece.length <= stored:
                return False
    return True
