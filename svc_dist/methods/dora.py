"""DoRA: the merged weight with rows of given lengths, ``m (W + s B A) / ||W + s B A||``, as a change of ``W``.

The lengths are measured in float64, some rows at a time; https://arxiv.org/abs/2402.09353.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from svc_dist.methods.chunking import CHUNK, chunks, entries
from svc_dist.methods.low_rank import LowRank, Sampled


class Gains:
    """``m / ||W + s B A||`` for each row of a matrix, or for each column: measured when they are first asked for."""

    def __init__(self, measure: Callable[[], Tensor], by_column: bool) -> None:
        self._measure, self.by_column = measure, by_column

    @cached_property
    def values(self) -> Tensor:
        return self._measure()

    def part(self, rows: slice, columns: slice) -> Gains:
        return Gains(lambda: self.values[columns if self.by_column else rows], self.by_column)

    def transposed(self) -> Gains:
        return Gains(lambda: self.values, not self.by_column)


def gains_of(weight: Tensor, added: LowRank, magnitude: Tensor, by_column: bool) -> Gains:
    """Of whole rows of a matrix ``weight``, or of a whole one ``by_column``."""

    def measure() -> Tensor:
        rows, columns = weight.shape
        step = max(1, CHUNK // columns)
        squares: list[Tensor] = []
        for top in range(0, rows, step):
            bottom = min(top + step, rows)
            merged = added.chunk(top * columns, bottom * columns).dense(torch.float64, "cpu").view(-1, columns)
            of_rows = merged.add_(weight[top:bottom]).square_().sum(0 if by_column else 1)
            squares = [squares[0] + of_rows] if by_column and squares else [*squares, of_rows]
        return magnitude.double().reshape(-1) / torch.cat(squares).sqrt()

    return Gains(measure, by_column)


@dataclass(frozen=True)
class Rescaled:
    """What DoRA adds to a matrix ``weight (m, n)``, to which ``added`` is added before: entries ``[first, last)``."""

    weight: Tensor
    added: LowRank
    gains: Gains
    first: int = 0
    last: int | None = None

    @property
    def end(self) -> int:
        return self.weight.numel() if self.last is None else self.last

    def dense(self, dtype: torch.dtype, device: str) -> Tensor:
        columns = self.weight.shape[1]
        result = torch.empty(self.end - self.first, dtype=dtype, device=device)
        gains = self.gains.values.to(device).to(dtype)
        for start, end in chunks(len(result), 1):
            first, last = self.first + start, self.first + end
            weight = entries(self.weight, first, last).to(device).to(dtype)
            top, bottom = first // columns, -(-last // columns)
            of_rows = (
                gains.repeat(bottom - top) if self.gains.by_column else gains[top:bottom].repeat_interleave(columns)
            )
            merged = self.added.chunk(first, last).dense(dtype, device).add_(weight)
            result[start:end] = merged.mul_(of_rows[first - top * columns : last - top * columns]).sub_(weight)
        return result

    def chunk(self, start: int, end: int) -> Rescaled:
        return replace(self, first=self.first + start, last=self.first + end)

    def part(self, rows: slice, columns: slice) -> Rescaled:
        whole = self._whole_rows()
        added, gains = whole.added.part(rows, columns), whole.gains.part(rows, columns)
        return Rescaled(whole.weight[rows, columns], added, gains)

    def transposed(self) -> Rescaled:
        whole = self._whole_rows()
        return Rescaled(whole.weight.T, whole.added.transposed(), whole.gains.transposed())

    def pick(self, positions: Tensor) -> Sampled:
        return Sampled(self, positions)

    def values(self, positions: Tensor, dtype: torch.dtype, device: str) -> Tensor:
        places = positions + self.first
        rows, columns = places // self.weight.shape[1], places % self.weight.shape[1]
        weight = self.weight[rows, columns].to(device).to(dtype)
        gains = self.gains.values[columns if self.gains.by_column else rows].to(device).to(dtype)
        return self.added.pick(places).dense(dtype, device).add_(weight).mul_(gains).sub_(weight)

    def is_zero(self) -> bool:
        return False  # not without measuring every row

    def _whole_rows(self) -> Rescaled:
        """These entries as all those of their rows."""
        if not self.first and self.end == self.weight.numel():
            return self
        columns = self.weight.shape[1]
        rows = slice(self.first // columns, self.end // columns)
        every = slice(None)
        return Rescaled(self.weight[rows], self.added.part(rows, every), self.gains.part(rows, every))
