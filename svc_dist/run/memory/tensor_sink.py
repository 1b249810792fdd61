"""The result of a merge in memory: units write their ranges into its tensors."""

from __future__ import annotations

import bisect
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from svc_dist.checkpoint.dtype import torch_dtype
from svc_dist.plan.model import Plan
from svc_dist.storage.retry import Retries
from svc_dist.storage.writing.base import ShardFile


class TensorSink:
    """The tensors of a plan's only result. Two names that are one tensor in ``base`` are one here."""

    def __init__(self, plan: Plan, base: Mapping[str, Tensor]) -> None:
        written = {tensor.name for tensor in plan.tensors}
        lead_of = {one.name: one.tied_to for one in plan.tensors if one.tied_to in written & base.keys()}
        shared = {name: lead for name, lead in lead_of.items() if lead and _same(base[lead], base.get(name))}
        own = {
            one.name: torch.empty(one.shape, dtype=torch_dtype(one.dtype))
            for one in plan.tensors
            if one.name not in shared
        }
        self.tensors = {one.name: own[shared.get(one.name, one.name)] for one in plan.tensors}
        self._shards = {shard.file: number for number, shard in enumerate(plan.shards)}
        self._pieces: list[list[tuple[int, int, memoryview]]] = []
        for tensors in plan.shard_tensors:
            views = ((one.start, one.end, self.tensors[one.name].view(-1).view(torch.uint8)) for one in tensors)
            self._pieces.append([(start, end, view.numpy().data) for start, end, view in views if start < end])

    def write_range(self, shard: ShardFile, start: int, end: int, first_part: int, parts: Sequence[int]) -> _Range:
        return _Range(self._pieces[self._shards[shard.file]], start)


class _Range:
    def __init__(self, pieces: Sequence[tuple[int, int, memoryview]], start: int) -> None:
        self._pieces, self._position = pieces, start
        self._starts = [piece[0] for piece in pieces]
        self.retries = Retries()

    def __enter__(self) -> _Range:
        return self

    def write(self, data: memoryview) -> None:
        data = data.cast("B") if data.nbytes else data
        stop = self._position + data.nbytes
        for start, end, target in self._pieces[max(0, bisect.bisect_right(self._starts, self._position) - 1) :]:
            if start >= stop:
                break
            low, high = max(start, self._position), min(end, stop)
            if low < high:
                target[low - start : high - start] = data[low - self._position : high - self._position]
        self._position = stop

    def commit(self) -> tuple[str, ...]:
        return ()

    def __exit__(self, *exception: object) -> None:
        pass


def _same(one: Tensor, other: Tensor | None) -> bool:
    return other is not None and one.numel() > 0 and (one.data_ptr(), one.shape) == (other.data_ptr(), other.shape)
