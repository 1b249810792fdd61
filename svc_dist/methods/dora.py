"""DoRA: the merged weight with rows of given lengths, ``m (W + s B A) / ||W + s B A||``, as a change of ``W``.

The lengths are measured in float64, some rows at a time; https://arxiv.org/abs/2402.09353.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from svc_dist.methods.chunking import CHUNK
from svc_dist.methods.low_rank import Change, LowRank


class Gains:
    """``m / ||W + s B A||`` for each row of whole rows of a matrix, or for each column of a whole matrix.

    ``weight``: flat, as it is stored. Measured when they are first asked for.
    """

    def __init__(self, weight: Tensor, added: LowRank, magnitude: Tensor, by_column: bool) -> None:
        self._weight, self._added, self._magnitude, self.by_column = weight, added, magnitude, by_column
        self.width = added.shape[1]

    @cached_property
    def values(self) -> Tensor:
        step = max(1, CHUNK // self.width) * self.width
        squares: list[Tensor] = []
        for start in range(0, self._weight.numel(), step):
            end = min(start + step, self._weight.numel())
            merged = self._weight[start:end].double() + self._added.chunk(start, end).dense(torch.float64, "cpu")
            of_chunk = merged.view(-1, self.width).square().sum(0 if self.by_column else 1)
            squares = [squares[0] + of_chunk] if self.by_column and squares else [*squares, of_chunk]
        return self._magnitude.double().reshape(-1) / torch.cat(squares).sqrt()

    def at(self, positions: Tensor) -> Tensor:
        """Those of entries of the flattened matrix."""
        return self.values[positions % self.width if self.by_column else positions // self.width]


@dataclass(frozen=True)
class Rescaled:
    """What DoRA adds to ``weight``, entries ``[first, ...)`` of a matrix, to which ``added`` is added before.

    ``positions``: of the entries in the flattened matrix, where they are not consecutive.
    """

    weight: Tensor
    added: Change
    gains: Gains
    first: int = 0
    positions: Tensor | None = None

    def dense(self, dtype: torch.dtype, device: str) -> Tensor:
        weight = self.weight.to(device).to(dtype)
        gains = self.gains.at(self._positions()).to(device).to(dtype)
        return self.added.dense(dtype, device).add_(weight).mul_(gains).sub_(weight)

    def chunk(self, start: int, end: int) -> Rescaled:
        positions = None if self.positions is None else self.positions[start:end]
        added = self.added.chunk(start, end)
        return Rescaled(self.weight[start:end], added, self.gains, self.first + start, positions)

    def part(self, rows: slice, columns: slice) -> Rescaled:
        """Some rows and columns of a whole matrix."""
        width = self.gains.width
        positions = self._positions().view(-1, width)[rows, columns].reshape(-1)
        weight = self.weight.view(-1, width)[rows, columns].reshape(-1)
        return Rescaled(weight, self.added.part(rows, columns), self.gains, 0, positions)

    def pick(self, positions: Tensor) -> Rescaled:
        chosen = self._positions()[positions]
        return Rescaled(self.weight[positions], self.added.pick(positions), self.gains, 0, chosen)

    def is_zero(self) -> bool:
        return False  # not without measuring every row

    def _positions(self) -> Tensor:
        if self.positions is not None:
            return self.positions
        return torch.arange(self.first, self.first + self.weight.numel())
