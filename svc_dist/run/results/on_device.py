"""A merged matrix on a device: added to its base, checked and cast there."""

from __future__ import annotations

import torch
from torch import Tensor

from svc_dist.methods.apply import MergedChunk
from svc_dist.methods.low_rank import LowRank


def cast_on_device(chunk: MergedChunk, scale: float, dtype: torch.dtype) -> Tensor | None:
    """``W0 + lambda * M`` as ``dtype``, flat and still on the device; None where an entry does not fit into it.

    It waits for the device once, whatever the size.
    """
    merged, deltas, size = chunk.merged, chunk.deltas, chunk.end - chunk.start
    result = torch.empty(size, dtype=dtype, device=deltas.device)
    extremes: list[Tensor] = []
    for start in range(0, size, deltas.grain):
        end = min(start + deltas.grain, size)
        part = deltas if (start, end) == (0, size) else deltas.chunk(start, end)
        assert isinstance(merged, Tensor | LowRank)
        if isinstance(merged, Tensor):
            delta = merged[start:end]
        else:
            delta = merged.chunk(start, end).dense(part.dtype, part.device)
        total = torch.add(part.base.view(-1), delta, alpha=scale)
        extremes += torch.aminmax(total)
        result[start:end] = total
        del total, delta
    fits = float(torch.stack(extremes).abs().max()) <= torch.finfo(dtype).max  # not for a NaN
    return result if fits else None
