"""The deltas of a chunk with as few calls as possible: there are thousands of chunks in a model.

A chunk's arithmetic takes less than a millisecond, so that the dozens of views and objects by which ``TaskDeltas``
serves every case (matrices, adapters, devices) would take a third of the time. What is plain, flat entries in the
memory of the CPU, goes a shorter way here, by the same arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property, partial

import numpy as np
import torch
from torch import Tensor

from svc_dist.methods.chunking import chunks
from svc_dist.methods.deltas import TaskDeltas
from svc_dist.methods.elementwise.compiled.ready import loops
from svc_dist.methods.elementwise.compiled.stored import Stored

_KINDS = {torch.float32: np.float32, torch.float64: np.float64}


def cutter(deltas: TaskDeltas) -> Callable[[int, int], TaskDeltas]:
    """What makes the deltas of elements ``[start, end)`` of a flattened tensor."""
    return partial(Piece, deltas, _stored(deltas)) if _is_plain(deltas) else deltas.chunk


def pieces(deltas: TaskDeltas) -> Iterator[TaskDeltas]:
    """The deltas of a tensor chunk by chunk, in order."""
    cut = cutter(deltas)
    return (cut(start, end) for start, end in chunks(deltas.numel, deltas.row))


def stored(deltas: TaskDeltas) -> Stored | None:
    """What compiled loops take of the deltas: of plain pieces in bfloat16, where there are such loops."""
    return deltas.stored if isinstance(deltas, Piece) else None


class Piece(TaskDeltas):
    """The deltas of flat entries ``[start, end)`` of ``whole``, which is plain. ``fast``: all of these as stored.

    Views are made when they are asked for: compiled loops ask for none.
    """

    def __init__(self, whole: TaskDeltas, fast: Stored | None, start: int, end: int) -> None:
        self.__dict__ |= whole.__dict__
        for name in ("experts", "base_view", "base"):  # of the whole tensor
            self.__dict__.pop(name, None)
        self._whole, self._start = whole, start
        self.shape, self.offset = (end - start,), whole.offset + start
        self.stored = None if fast is None else fast.part(start, end)

    def __len__(self) -> int:
        return len(self._whole)

    @cached_property
    def experts(self) -> list[Tensor | None]:  # type: ignore[override]
        return [None if view is None else self._narrowed(view) for view in self._whole.experts]

    @cached_property
    def base_view(self) -> Tensor | None:  # type: ignore[override]
        return None if self._whole.base_view is None else self._narrowed(self._whole.base_view)

    def __getitem__(self, index: int) -> Tensor:
        if self.stored is not None:
            return self.stored.delta(index)
        expert = self.experts[index]
        if expert is None:
            return self._zeros()
        delta = self._cast(expert)
        return delta if self.base_view is None else delta.sub_(self.base)

    @cached_property
    def base(self) -> Tensor:
        return self._zeros() if self.base_view is None else self._cast(self.base_view)

    def all_zero(self) -> bool:
        if self.stored is not None and self.stored.differs_at_once():
            return False
        return super().all_zero()

    def _narrowed(self, view: Tensor) -> Tensor:
        return view.narrow(0, self._start, self.numel)

    def _cast(self, view: Tensor) -> Tensor:
        return torch.from_numpy(np.empty(view.shape, _KINDS[self.dtype])).copy_(view)


def _stored(deltas: TaskDeltas) -> Stored | None:
    views = [view for view in (deltas.base_view, *deltas.experts) if view is not None and view.dtype == torch.bfloat16]
    if deltas.dtype != torch.float32 or len(views) <= len(deltas) or (code := loops(deltas.numel)) is None:
        return None
    base, *experts = (view.data_ptr() for view in views)
    return Stored(code, experts, base, deltas.numel, deltas.offset)


def _is_plain(deltas: TaskDeltas) -> bool:
    views = [view for view in (deltas.base_view, *deltas.experts) if view is not None]
    return (
        deltas.device == "cpu"
        and len(deltas.shape) == 1
        and not any(deltas.changes)
        and all(view.dim() == 1 and view.is_contiguous() and view.device.type == "cpu" for view in views)
    )
