"""A matrix of independent errors, and which singular directions of a matrix that contains it are nothing else."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from svc_dist.linalg.devices.grain import lines

MARGIN = 1.1  #: over the largest singular value that is expected of the errors
_DIRECTIONS = 32  # directions that are squared at once


@dataclass(frozen=True)
class Noise:
    """Errors ``E (m, n)`` with mean zero: their variances, summed over each of the ``rows (m)`` and ``columns (n)``."""

    rows: Tensor
    columns: Tensor

    @property
    def T(self) -> Noise:  # noqa: N802, as of a tensor
        """That of the transposed matrix."""
        return Noise(self.columns, self.rows)

    def __add__(self, other: Noise) -> Noise:
        """That of a sum of two matrices with errors of their own."""
        return Noise(self.rows + other.rows, self.columns + other.columns)

    def without(self, directions: int) -> Noise:
        """That of what is left when so many directions of the column space are taken out of the matrix."""
        return Noise(self.rows, self.columns * (1 - directions / max(len(self.rows), 1)))

    def levels(self, left: Tensor, right: Tensor) -> Tensor:
        """The singular value that errors alone may have along each pair of ``left (m, r)`` and ``right (r, n)``.

        The pairs are sorted by strength. For directions ``u, v`` the bound is
        ``||A u|| ||b|| + ||B v|| ||a||`` with the roots a, b of the variances' row and column sums (Gordon 1985, Israel
        J. Math. 50, for variances that are products); it is ``sigma (sqrt(m) + sqrt(n))`` where all variances agree.
        Stronger pairs take dimensions away: r errors are left to ``m - r`` rows and ``n - r`` columns.
        """
        return self._bound(_weighted(left, self.rows), _weighted(right.T, self.columns))

    def mean_levels(self, count: int) -> Tensor:
        """The same for ``count`` pairs whose directions are not known: for errors that spread evenly. Shape (count)."""
        return self._bound(*(sums.mean().expand(count) for sums in (self.rows, self.columns)))

    def _bound(self, along_rows: Tensor, along_columns: Tensor) -> Tensor:
        """From the variance along each left direction, over all columns, and along each right one, over all rows."""
        height, width = len(self.rows), len(self.columns)
        taken = torch.arange(len(along_rows), dtype=torch.float64, device=self.rows.device)
        wide = along_rows * (1 - taken / width).clamp_min(0)
        tall = along_columns * (1 - taken / height).clamp_min(0)
        return MARGIN * (wide.sqrt() + tall.sqrt())


def _weighted(directions: Tensor, variances: Tensor) -> Tensor:
    """``sum_i u_ir^2 variances_i`` for directions ``(m, r)``, without a copy of them."""
    step = lines(directions.device, _DIRECTIONS, len(directions))
    parts = [
        directions[:, start : start + step].square().T.double() @ variances
        for start in range(0, directions.shape[1], step)
    ]
    return torch.cat(parts) if parts else variances.new_zeros(0)
