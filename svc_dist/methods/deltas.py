"""The task deltas of one tensor, formed one expert at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from svc_dist.linalg.devices.grain import grain, on_the_cpu
from svc_dist.linalg.devices.transfer import moved, sent
from svc_dist.linalg.finite import same_bytes
from svc_dist.linalg.precision import compute_dtype
from svc_dist.methods.chunking import CHUNK, chunks, entries, in_any_order
from svc_dist.methods.low_rank import Change, LowRank

_RUN = 16  # neighbours sampled together: one cache line of storage serves them all


class Deltas(Protocol):
    """What a calibration takes: the task deltas of a matrix one after another, or their cores."""

    @property
    def precision(self) -> str: ...

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Tensor]: ...

    @property
    def shape(self) -> tuple[int, ...]:
        """That of the task deltas, ``(m, n)``."""


@dataclass(frozen=True)
class Copy:
    """In place of a merged delta: the result is expert ``expert``'s own tensor, bit for bit."""

    expert: int


class TaskDeltas:
    """K task deltas ``Di = Wi - W0`` of one tensor, each computed when it is asked for.

    ``experts`` and ``base`` are views in storage dtype, often memory-mapped: they are only read. Without a base the
    experts *are* the deltas. ``deltas[i]`` is cast first and subtracted then, in the compute dtype of ``precision``, in
    fresh memory on ``device`` that the caller may overwrite. Nothing here keeps more than one delta alive.

    An expert may be None, the base itself; ``changes`` hold what an adapter adds to each, or None. Where all experts
    are None and there is no base, ``shape`` says the tensor's.

    ``tensor`` names the tensor, ``offset`` and ``row`` say which element of it ours begins at and how long its rows are
    (a chunk or one matrix of a batch is a part of a tensor), which is what random and row-wise methods need.
    ``low_memory`` asks methods that can for less memory, at the price of time and of the last bits.
    """

    def __init__(
        self,
        experts: Sequence[Tensor | None],
        base: Tensor | None = None,
        *,
        changes: Sequence[Change | None] | None = None,
        precision: str = "mixed",
        device: str = "cpu",
        tensor: str = "",
        offset: int = 0,
        row: int | None = None,
        shape: tuple[int, ...] | None = None,
        low_memory: bool = False,
    ) -> None:
        self.experts = list(experts)
        self.changes = [None] * len(self.experts) if changes is None else list(changes)
        self.base_view = base
        self.precision = precision
        self.dtype = compute_dtype(precision)
        self.device = device
        self.tensor = tensor
        self.offset = offset
        self.low_memory = low_memory
        like = next((view for view in (base, *self.experts) if view is not None), None)
        self.shape = tuple(like.shape) if like is not None else tuple(shape or ())
        self.row = row if row is not None else (self.shape[-1] if self.shape else 1)

    def __len__(self) -> int:
        return len(self.experts)

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    def __getitem__(self, index: int) -> Tensor:
        """Task delta ``index`` in the compute dtype, in fresh memory. Shape: that of the tensor."""
        expert, change = self.experts[index], self.changes[index]
        if expert is None:
            return self._zeros() if change is None else self._formed(change)
        delta = self._cast(expert)
        if self.base_view is not None:
            if self.numel <= self.grain:
                delta.sub_(self.base)
            else:
                flat = delta.view(-1)
                for start in range(0, self.numel, self.grain):
                    end = min(start + self.grain, self.numel)
                    flat[start:end].sub_(self._cast(entries(self.base_view, start, end)))
        return delta if change is None else self._changed(delta, change)

    def __iter__(self) -> Iterator[Tensor]:
        return (self[index] for index in range(len(self)))

    @cached_property
    def base(self) -> Tensor:
        """``W0`` in the compute dtype (zeros where there is no base). Kept once asked for: ask it of chunks."""
        return self._zeros() if self.base_view is None else self._cast(self.base_view)

    def model(self, index: int) -> Tensor:
        """Expert ``index``'s own tensor ``Wi`` in the compute dtype, in fresh memory."""
        expert, change = self.experts[index], self.changes[index]
        view = self.base_view if expert is None else expert
        model = self._zeros() if view is None else self._cast(view)
        return model if change is None else self._changed(model, change)

    def total(self) -> Tensor:
        """``sum_i Di`` in the compute dtype, in fresh memory, formed chunk by chunk. Shape: that of the tensor."""
        total = torch.empty(self.shape, dtype=self.dtype, device=self.device)
        flat = total.view(-1)
        for start, end in chunks(self.numel, self.row, size=self.grain):
            chunk, sums = self.chunk(start, end), flat[start:end]
            for index in range(len(chunk)):
                sums.copy_(chunk[index]) if index == 0 else sums.add_(chunk[index])
        return total

    def all_zero(self) -> bool:
        """Whether every delta is exactly zero. Costs next to nothing when they differ from the start."""
        if any(change is not None and not change.is_zero() for change in self.changes):
            return False
        experts = [in_any_order(expert) for expert in self.experts if expert is not None]
        if self.base_view is None:
            return not any(bool(expert.any()) for expert in experts)
        base = in_any_order(self.base_view)

        def same(part: slice) -> bool:
            return all(
                (
                    torch.equal(expert[part], base[part]) or same_bytes(expert[part], base[part])
                )  # a NaN is no difference
                if expert.dtype == base.dtype
                else torch.equal(self._cast(expert[part]), self._cast(base[part]))
                for expert in experts
            )

        return same(slice(256)) and same(slice(None))  # torch.equal always reads to the end

    def low_rank(self) -> list[LowRank] | None:
        """Every delta of a matrix as its factors, a zero one without rank; None where one is not made of factors."""
        if len(self.shape) != 2 or any(expert is not None for expert in self.experts):
            return None
        rows, columns = self.shape
        factors = []
        for change in self.changes:
            if change is None or (isinstance(change, LowRank) and not change.rank):
                change = LowRank(torch.empty(rows, 0), torch.empty(0, columns))
            if not isinstance(change, LowRank) or change.shape != self.shape:
                return None
            factors.append(change)
        return factors

    def chunk(self, start: int, end: int) -> TaskDeltas:
        """The deltas of elements ``[start, end)`` of the flattened tensor."""
        return self._part(
            lambda view: entries(view, start, end),
            lambda change: change.chunk(start, end), (end - start,), self.offset + start, self.row,
        )  # fmt: skip

    def chunks(self, whole_rows: bool = False) -> Iterator[TaskDeltas]:
        """The deltas chunk by chunk, in order."""
        return (self.chunk(start, end) for start, end in chunks(self.numel, self.row, whole_rows, self.grain))

    def sample(self, size: int, device: str | None = None) -> TaskDeltas:
        """About ``size`` elements, spread evenly in short runs: for estimates. Needs at least 16 elements.

        ``device``: where they are formed, by default where all are.
        """
        runs = self.numel // _RUN
        stride = max(1, runs * _RUN // size)
        while math.gcd(stride, max(self.row, 1)) > 1:  # a common factor would look at the same columns of every row
            stride += 1

        def spread(view: Tensor) -> Tensor:
            return view.reshape(-1)[: runs * _RUN].view(runs, _RUN)[::stride]

        shape = (len(range(0, runs, stride)), _RUN)
        return self._part(
            spread,
            lambda change: change.pick(spread(torch.arange(runs * _RUN)).reshape(-1)), shape, 0, _RUN, device,
        )  # fmt: skip

    def matrix(self, index: int, batch: tuple[int, int, int]) -> TaskDeltas:
        """Matrix ``index`` of the tensor seen as a batch ``(count, m, n)`` of matrices."""
        count, rows, columns = batch
        size = rows * columns
        return self._part(
            lambda view: view.reshape(count, rows, columns)[index],
            lambda change: change.chunk(index * size, (index + 1) * size), (rows, columns),
            self.offset + index * size, columns,
        )  # fmt: skip

    def stacked(self, batch: tuple[int, int, int]) -> TaskDeltas:
        """The deltas of a tensor as those of a batch ``(count, m, n)`` of matrices."""
        return self._part(
            lambda view: view.reshape(batch), lambda change: change, batch, self.offset, batch[2],
        )  # fmt: skip

    def transposed(self) -> TaskDeltas:
        """The deltas of a matrix as those of its transpose."""
        rows, columns = self.shape
        return self._part(
            lambda view: view.T, lambda change: change.transposed(), (columns, rows), self.offset, rows,
        )  # fmt: skip

    def part(self, rows: slice = slice(None), columns: slice = slice(None)) -> TaskDeltas:
        """The deltas of some rows or columns of a matrix; for sums, which do not ask where they lie."""
        height, width = (len(range(*cut.indices(size))) for cut, size in zip((rows, columns), self.shape, strict=True))
        return self._part(
            lambda view: view[rows, columns],
            lambda change: change.part(rows, columns), (height, width), self.offset, width,
        )  # fmt: skip

    @property
    def grain(self) -> int:
        """Elements that are handled at once."""
        return grain(self.device, CHUNK)

    @property
    def on_device(self) -> bool:
        """Whether all inputs stay on a device: reading them again costs no copy."""
        return not on_the_cpu(self.device) and not any(
            view is not None and on_the_cpu(view.device) for view in (self.base_view, *self.experts)
        )

    def resident(self, count: int) -> TaskDeltas:
        """The same deltas, their first ``count`` inputs (base first) and all factors on the device, as stored."""
        views = [
            view if view is None or number >= count else sent(view, self.device)
            for number, view in enumerate((self.base_view, *self.experts))
        ]
        changes = [change.on(self.device) if isinstance(change, LowRank) else change for change in self.changes]
        return TaskDeltas(
            views[1:], views[0], changes=changes, precision=self.precision, device=self.device, tensor=self.tensor,
            offset=self.offset, row=self.row, shape=self.shape, low_memory=self.low_memory,
        )  # fmt: skip

    def at(self, precision: str) -> TaskDeltas:
        """The same deltas at another level of precision."""
        return TaskDeltas(
            self.experts, self.base_view, changes=self.changes, precision=precision, device=self.device,
            tensor=self.tensor, offset=self.offset, row=self.row, shape=self.shape, low_memory=self.low_memory,
        )  # fmt: skip

    def _part(
        self,
        view: Callable[[Tensor], Tensor],
        part: Callable[[Change], Change],
        shape: tuple[int, ...],
        offset: int,
        row: int,
        device: str | None = None,
    ) -> TaskDeltas:
        return TaskDeltas(
            [None if expert is None else view(expert) for expert in self.experts],
            None if self.base_view is None else view(self.base_view),
            changes=[None if change is None else part(change) for change in self.changes],
            precision=self.precision, device=device or self.device, tensor=self.tensor, offset=offset, row=row,
            shape=shape, low_memory=self.low_memory,
        )  # fmt: skip

    def _zeros(self) -> Tensor:
        return torch.zeros(self.shape, dtype=self.dtype, device=self.device)

    def _formed(self, change: Change) -> Tensor:
        return change.dense(self.dtype, self.device).view(self.shape)

    def _changed(self, tensor: Tensor, change: Change) -> Tensor:
        """A tensor with a change added in place."""
        flat = tensor.view(-1)
        for start, end in chunks(self.numel, self.row, size=self.grain):
            flat[start:end].add_(change.chunk(start, end).dense(self.dtype, self.device))
        return tensor

    def _cast(self, view: Tensor) -> Tensor:
        return moved(view, self.dtype, self.device)
