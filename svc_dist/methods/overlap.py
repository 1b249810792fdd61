"""How large the task deltas of a tensor are and how far they point the same way, estimated from a sample."""

from __future__ import annotations

from typing import Any

import torch

from svc_dist.methods.deltas import TaskDeltas

_SAMPLE = 1 << 15  # elements: cosines within about 0.006 of the exact ones
_LEAST = 16  # elements; fewer are not worth a word


def delta_overlap(deltas: TaskDeltas) -> dict[str, Any] | None:
    """``base``: ``||W0||^2``; ``gram``: ``<Di, Dj>`` for ``i <= j``, row by row. None for a few elements.

    Taken from elements spread evenly over the tensor and scaled to all of them; of the parts of a tensor they add up.
    """
    if deltas.numel < _LEAST:
        return None
    sample = deltas.sample(_SAMPLE, "cpu")  # few elements, which lie in the host's memory
    scale = deltas.numel / sample.numel
    rows = torch.stack([delta.reshape(-1).double() for delta in sample])
    gram = rows @ rows.T * scale
    upper = torch.triu_indices(len(rows), len(rows))
    return {
        "base": _short(float(sample.base.double().square().sum()) * scale),
        "gram": [_short(float(value)) for value in gram[upper[0], upper[1]]],
    }


def _short(value: float) -> float:
    """Six digits: more would be noise in every report."""
    return float(f"{value:.6g}")
