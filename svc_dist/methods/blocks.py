"""What an adapter adds to a tensor of several matrices: a change of its own for each, one after the other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from svc_dist.methods.low_rank import Change, LowRank, Sampled


@dataclass(frozen=True)
class Blocks:
    """Changes of consecutive entries: pairs of how many entries, and their change. Rows have ``width`` entries."""

    changes: tuple[tuple[int, Change], ...]
    width: int

    def dense(self, dtype: torch.dtype, device: str) -> Tensor:
        return torch.cat([change.dense(dtype, device) for _, change in self.changes])

    def chunk(self, start: int, end: int) -> Change:
        return self._of(
            (last - first, change if (first, last) == (0, count) else change.chunk(first, last))
            for count, change, first, last in self._within(start, end)
        )

    def part(self, rows: slice, columns: slice) -> Change:
        """Some rows and columns of the matrix that the blocks are, each of whole rows."""
        height = sum(count for count, _ in self.changes) // self.width
        top, bottom, _ = rows.indices(height)
        wide = len(range(*columns.indices(self.width)))
        parts: list[tuple[int, Change]] = []
        for _, change, first, last in self._within(top * self.width, bottom * self.width):
            cut = slice(first // self.width, last // self.width)
            parts.append(((cut.stop - cut.start) * wide, change.part(cut, columns)))
        return Blocks(tuple(parts), wide)

    def transposed(self) -> LowRank:
        """The transpose of the matrix that the blocks are, as one pair of factors with a block for each of theirs."""
        pairs: list[tuple[Tensor, Tensor]] = []
        for _, change in self.changes:
            whole = change.part(slice(None), slice(None))
            if not isinstance(whole, LowRank):
                raise TypeError("only a matrix of factors is transposed")
            pairs.append(whole.factors(torch.float64, "cpu"))
        rows, rank = (sum(pair[0].shape[side] for pair in pairs) for side in (0, 1))
        left = torch.zeros(rows, rank, dtype=torch.float64)
        row = column = 0
        for one, _ in pairs:
            left[row : row + one.shape[0], column : column + one.shape[1]] = one
            row, column = row + one.shape[0], column + one.shape[1]
        return LowRank(left, torch.cat([pair[1] for pair in pairs])).transposed()

    def pick(self, positions: Tensor) -> Sampled:
        return Sampled(self, positions)

    def values(self, positions: Tensor, dtype: torch.dtype, device: str) -> Tensor:
        result = torch.zeros(len(positions), dtype=dtype, device=device)
        position = 0
        for count, change in self.changes:
            mine = ((positions >= position) & (positions < position + count)).nonzero().flatten()
            if len(mine):
                result[mine.to(device)] = change.pick(positions[mine] - position).dense(dtype, device)
            position += count
        return result

    def is_zero(self) -> bool:
        return all(change.is_zero() for _, change in self.changes)

    def _within(self, start: int, end: int) -> Iterator[tuple[int, Change, int, int]]:
        """The changes of entries ``[start, end)``: entries of the change, the change, and which of them are meant."""
        position = 0
        for count, change in self.changes:
            first, last = max(start - position, 0), min(end - position, count)
            if first < last:
                yield count, change, first, last
            position += count

    def _of(self, changes: Iterator[tuple[int, Change]]) -> Change:
        several = tuple(changes)
        return several[0][1] if len(several) == 1 else Blocks(several, self.width)
