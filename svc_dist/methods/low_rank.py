"""What an adapter adds to a matrix, ``scale * left @ right``: kept as its factors, formed where it is asked for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from svc_dist.linalg.devices.transfer import sent
from svc_dist.linalg.finite import all_finite
from svc_dist.methods.chunking import CHUNK


class Change(Protocol):
    """Entries of a task delta that are computed when they are asked for."""

    def dense(self, dtype: torch.dtype, device: str) -> Tensor:
        """The entries, flat, in fresh memory."""

    def chunk(self, start: int, end: int) -> Change:
        """Entries ``[start, end)`` of these."""

    def part(self, rows: slice, columns: slice) -> Change:
        """Some rows and columns of a matrix."""

    def transposed(self) -> Change:
        """The transpose of a matrix."""

    def pick(self, positions: Tensor) -> Change:
        """The entries at ``positions`` of these."""

    def is_zero(self) -> bool:
        """Whether every entry is known to be exactly zero."""


@dataclass(frozen=True)
class LowRank:
    """Entries ``[first, last)`` of the flattened matrix ``scale * left (m, r) @ right (r, n)``; all unless given.

    The factors are views in any dtype and only read; products run in the dtype that is asked for.
    """

    left: Tensor
    right: Tensor
    scale: float = 1.0
    first: int = 0
    last: int | None = None

    @property
    def shape(self) -> tuple[int, int]:
        return self.left.shape[0], self.right.shape[1]

    @property
    def rank(self) -> int:
        return self.left.shape[1]

    @property
    def end(self) -> int:
        return self.left.shape[0] * self.right.shape[1] if self.last is None else self.last

    def on(self, device: str) -> LowRank:
        """The same with its factors on a device, as stored."""
        return replace(self, left=sent(self.left, device), right=sent(self.right, device))

    def chunk(self, start: int, end: int) -> LowRank:
        return replace(self, first=self.first + start, last=self.first + end)

    def part(self, rows: slice, columns: slice) -> LowRank:
        whole = self._whole_rows()
        return LowRank(whole.left[rows], whole.right[:, columns], self.scale)

    def transposed(self) -> LowRank:
        whole = self._whole_rows()
        return LowRank(whole.right.T, whole.left.T, self.scale)

    def pick(self, positions: Tensor) -> Sampled:
        return Sampled(self, positions)

    def values(self, positions: Tensor, dtype: torch.dtype, device: str) -> Tensor:
        result = torch.empty(len(positions), dtype=dtype, device=device)
        step = max(1, CHUNK // max(self.rank, 1))
        for start in range(0, len(positions), step):
            places = positions[start : start + step] + self.first
            rows, columns = places // self.shape[1], places % self.shape[1]
            left, right = self.left[rows].to(device).to(dtype), self.right.T[columns].to(device).to(dtype)
            result[start : start + step] = (left * right).sum(1).mul_(self.scale)
        return result

    def is_zero(self) -> bool:
        """Whether one of the factors is zero where these entries come from."""
        rows, columns = self._place()
        left, right = self.left[rows], self.right[:, columns]
        # A NaN or an infinity in the other one must show: zero times it is no zero.
        return any(not bool(one.any()) and all_finite(other) for one, other in ((left, right), (right, left)))

    def dense(self, dtype: torch.dtype, device: str) -> Tensor:
        rows, columns = self._place()
        left = self.left[rows].to(device).to(dtype, copy=True).mul_(self.scale)
        flat = (left @ self.right[:, columns].to(device).to(dtype)).reshape(-1)
        skipped = self.first - rows.start * self.shape[1] - columns.start
        return flat[skipped : skipped + self.end - self.first]

    def factors(self, dtype: torch.dtype, device: str) -> tuple[Tensor, Tensor]:
        """``scale * left`` and ``right`` of the whole matrix."""
        return self.left.to(device).to(dtype, copy=True).mul_(self.scale), self.right.to(device).to(dtype)

    def _whole_rows(self) -> LowRank:
        """These entries as all those of their rows: a matrix of a batch is whole rows of it."""
        if not self.first and self.end == self.shape[0] * self.shape[1]:
            return self
        return LowRank(self.left[self.first // self.shape[1] : self.end // self.shape[1]], self.right, self.scale)

    def _place(self) -> tuple[slice, slice]:
        """The rows that the entries lie in, and the columns, where it is one row."""
        length = self.shape[1]
        first, last = self.first // max(length, 1), -(-self.end // max(length, 1))
        if last - first == 1:
            return slice(first, last), slice(self.first - first * length, self.end - first * length)
        return slice(first, last), slice(0, length)


class Samplable(Protocol):
    """A change whose entries are computed one by one too."""

    def values(self, positions: Tensor, dtype: torch.dtype, device: str) -> Tensor:
        """The entries at ``positions`` of these, in fresh memory."""

    def is_zero(self) -> bool:
        """Whether every entry is known to be exactly zero."""


@dataclass(frozen=True)
class Sampled:
    """The entries of ``change`` at ``positions``."""

    change: Samplable
    positions: Tensor

    def chunk(self, start: int, end: int) -> Sampled:
        return replace(self, positions=self.positions[start:end])

    def part(self, rows: slice, columns: slice) -> Change:
        raise TypeError("a sample has no rows")

    def transposed(self) -> Change:
        raise TypeError("a sample has no rows")

    def pick(self, positions: Tensor) -> Sampled:
        return replace(self, positions=self.positions[positions])

    def is_zero(self) -> bool:
        return self.change.is_zero()

    def dense(self, dtype: torch.dtype, device: str) -> Tensor:
        return self.change.values(self.positions, dtype, device)
