"""How well a decomposition fits its matrix, estimated from a few random rows."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from svc_dist.errors import NumericsError
from svc_dist.linalg.devices.transfer import sent

_PROBES = 4
_MARGIN = 300.0  # times what rounding alone is expected to leave; measured: up to 12
_FAINT = 1e-280  # the largest value of a matrix whose rounding is that of denormal numbers; in float32:
_FAINT32 = torch.finfo(torch.float32).tiny / torch.finfo(torch.float32).eps


class Probe:
    """Random rows X and their product with a matrix A before its decomposition, to see afterwards how well that fits.

    ``apply``: ``X (4, m) -> X A``; ``like``: a tensor of the dtype and device to work in.
    """

    def __init__(self, apply: Callable[[Tensor], Tensor], size: int, like: Tensor) -> None:
        generator = torch.Generator().manual_seed(0)
        self.rows = sent(torch.randn(_PROBES, size, generator=generator).to(like.dtype), like.device)
        self.images = apply(self.rows)
        self._found = (0.0, 0.0)

    def residual(self, left: Tensor, values: Tensor, right: Tensor) -> float:
        """An estimate of ``||A V - U diag(s)||_F / s_0`` for leading triplets ``U (m, k)``, ``s``, ``V (n, k)``."""
        if not len(values):
            return 0.0
        scale, kind = values[0].double(), left.dtype
        # Relative to the largest value before anything is narrowed: squares of small deltas vanish in float32.
        images, relative = (self.images / scale).to(kind), (values[: left.shape[1]] / scale).to(kind)
        error = torch.linalg.vector_norm(images @ right - (self.rows.to(kind) @ left) * relative)
        norm, largest = torch.stack([error.double(), scale]).cpu().tolist()
        residual = 0.0 if largest <= 0 else norm / math.sqrt(_PROBES)
        self._found = residual, largest
        return residual

    def fits(self, left: Tensor) -> bool:
        """Whether rounding explains the residual, for the dtype and length of the vectors ``left (m, k)``."""
        residual, largest = self._found
        if largest < (_FAINT if self.rows.dtype == torch.float64 else _FAINT32):
            return True
        return residual <= _MARGIN * torch.finfo(left.dtype).eps * math.sqrt(max(len(left), 16))

    def require_fit(self, left: Tensor, what: str) -> None:
        """Raise NumericsError naming ``what`` where a decomposition does not fit its matrix."""
        if not self.fits(left):
            raise NumericsError(
                f"the decomposition of {what} does not fit it: it is off by {self._found[0]:.1e} of the largest value",
                "a library or a processor computes wrongly: try another machine, or another build of torch and scipy",
            )
