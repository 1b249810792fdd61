"""How well a decomposition fits its matrix, estimated from a few random rows."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

_PROBES = 4


class Probe:
    """Random rows X and their product with a matrix A before its decomposition, to see afterwards how well that fits.

    ``apply``: ``X (4, m) -> X A``; ``like``: a tensor of the dtype and device to work in.
    """

    def __init__(self, apply: Callable[[Tensor], Tensor], size: int, like: Tensor) -> None:
        generator = torch.Generator().manual_seed(0)
        self.rows = torch.randn(_PROBES, size, generator=generator).to(like)
        self.images = apply(self.rows)

    def residual(self, left: Tensor, values: Tensor, right: Tensor) -> float:
        """An estimate of ``||A V - U diag(s)||_F / s_0`` for leading triplets ``U (m, k)``, ``s``, ``V (n, k)``."""
        scale = float(values[0]) if len(values) else 0.0
        if scale <= 0:
            return 0.0
        kind = left.dtype
        error = self.images.to(kind) @ right - (self.rows.to(kind) @ left) * values[: left.shape[1]].to(kind)
        return float(torch.linalg.vector_norm(error)) / (math.sqrt(_PROBES) * scale)
