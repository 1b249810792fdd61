"""What storage has rounded of each of many matrices; see ``linalg/rounding`` and ``linalg/noise`` for one."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from svc_dist.linalg.noise import MARGIN
from svc_dist.linalg.rounding import arithmetic, variances


@dataclass(frozen=True)
class Noises:
    """The variances of errors, summed over each of the ``rows (b, m)`` and ``columns (b, n)``, in float64."""

    rows: Tensor
    columns: Tensor

    @property
    def turned(self) -> Noises:
        """Those of the transposed matrices."""
        return Noises(self.columns, self.rows)

    def __add__(self, other: Noises) -> Noises:
        return Noises(self.rows + other.rows, self.columns + other.columns)

    def levels(self, left: Tensor, right: Tensor) -> Tensor:
        """The singular value that errors alone may have along each pair of ``left (b, m, r)``, ``right (b, r, n)``."""
        height, width = self.rows.shape[1], self.columns.shape[1]
        taken = torch.arange(left.shape[2], dtype=torch.float64, device=left.device)
        wide = (self.rows[:, None] @ left.square())[:, 0] * (1 - taken / width).clamp_min(0)
        tall = (right.square() @ self.columns[..., None])[..., 0] * (1 - taken / height).clamp_min(0)
        return MARGIN * (wide.sqrt() + tall.sqrt())


def storage_roundings(stored: Tensor, base: Tensor) -> Noises:
    """What 16-bit storage has rounded of ``stored - base (b, m, n)``: nothing in rows and columns that agree."""
    weights, origin = stored.float(), base.float()
    differ = torch.ne(weights, origin)
    errors = variances(weights - origin, stored.dtype).mul_(arithmetic(stored.dtype))
    errors += variances(weights, stored.dtype)
    errors.mul_(differ.any(2, keepdim=True)).mul_(differ.any(1, keepdim=True))
    return Noises(errors.sum(2), errors.sum(1))
