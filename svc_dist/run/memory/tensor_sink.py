"""The result of a merge in memory: units write their ranges into its tensors."""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from svc_dist.checkpoint.dtype import torch_dtype
from svc_dist.plan.model import Plan
from svc_dist.plan.tensor import PlannedTensor
from svc_dist.storage.retry import Retries
from svc_dist.storage.writing.base import ShardFile


class TensorSink:
    """The tensors of a plan's only result. Two names that are one tensor in ``base`` are one here."""

    def __init__(self, plan: Plan, base: Mapping[str, Tensor]) -> None:
        written = {tensor.name for tensor in plan.tensors}
        lead_of = {one.name: one.tied_to for one in plan.tensors if one.tied_to in written & base.keys()}
        shared = {name: lead for name, lead in lead_of.items() if lead and _same(base[lead], base.get(name))}
        own = {
            part.name: torch.empty(part.shape, dtype=torch_dtype(part.dtype))
            for one in plan.tensors
            if one.name not in shared
            for part in one.written
        }
        names = [part.name for one in plan.tensors for part in one.written]
        self.tensors = {name: own[shared.get(name, name)] for name in names}
        self._shards = {shard.file: number for number, shard in enumerate(plan.shards)}
        self._pieces: list[list[tuple[int, int, memoryview]]] = []
        for tensors in plan.shard_tensors:
            pieces = ((start, end, self.tensors[name]) for one in tensors for name, start, end in _places(one))
            self._pieces.append([(start, end, _bytes(tensor)) for start, end, tensor in pieces if start < end])

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


def _places(tensor: PlannedTensor) -> Iterator[tuple[str, int, int]]:
    """The name of each tensor that is written, and its bytes in the shard: from, to."""
    position = tensor.start
    for part in tensor.written:
        yield part.name, position, position + part.nbytes
        position += part.nbytes


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.view(-1).view(torch.uint8).numpy().data


def _same(one: Tensor, other: Tensor | None) -> bool:
    return other is not None and one.numel() > 0 and (one.data_ptr(), one.shape) == (other.data_ptr(), other.shape)
