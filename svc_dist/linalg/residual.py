"""How well a decomposition fits its matrix, estimated from a few random rows."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from svc_dist.errors import NumericsError

_PROBES = 4
_MARGIN = 300.0  # times what rounding alone is expected to leave; measured: up to 12
_FAINT = 1e-280  # the largest value of a matrix whose rounding is that of denormal numbers


def fits(residual: float, values: Tensor, left: Tensor) -> bool:
    """Whether a residual is one that rounding explains, for the dtype and length of the vectors ``left (m, k)``."""
    faint = _FAINT if values.dtype == torch.float64 else torch.finfo(values.dtype).tiny / torch.finfo(values.dtype).eps
    if not len(values) or float(values[0]) < faint:
        return True
    return residual <= _MARGIN * torch.finfo(left.dtype).eps * math.sqrt(max(len(left), 16))


def require_fit(residual: float, values: Tensor, left: Tensor, what: str) -> None:
    """Raise NumericsError naming ``what`` where a decomposition does not fit its matrix."""
    if not fits(residual, values, left):
        raise NumericsError(
            f"the decomposition of {what} does not fit it: it is off by {residual:.1e} of the largest value",
            "a library or a processor computes wrongly: try another machine, or another build of torch and scipy",
        )


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
        # Relative to the largest value before anything is narrowed: squares of small deltas vanish in float32.
        images, relative = (self.images / scale).to(kind), (values[: left.shape[1]] / scale).to(kind)
        error = images @ right - (self.rows.to(kind) @ left) * relative
        return float(torch.linalg.vector_norm(error)) / math.sqrt(_PROBES)
