"""Which entries are the largest: exact selection by rank in linear time, streaming over a tensor of any size.

A sample brackets the value sought; one pass over the tensor counts what lies above the bracket and collects the few
entries inside, among which the value is then found exactly. Where a sample misleads, a radix search over the bits
of the magnitudes takes over. Equal magnitudes are common (differences of bfloat16 weights lie on a grid): among
them the lowest flat index counts as the larger, so that exactly as many entries are kept as were asked for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from svc_dist.methods.chunking import COLLECTED, SAMPLE
from svc_dist.methods.deltas import TaskDeltas
from svc_dist.methods.elementwise.plain.pieces import pieces, stored

Array = np.ndarray[Any, Any]

#: Non-negative magnitudes of one series (an expert, a statistic over experts) of a piece: fresh memory, flat or not.
Magnitude = Callable[[TaskDeltas, int], Tensor]

_SMALL = 1 << 18  # a tensor up to this size is collected whole
_DEVIATIONS = 5.0  # half width of a bracket, in standard deviations of the sample's rank
_HEAVY = 512  # a value that makes up more than 1/512 of a sample is counted, not collected


@dataclass(frozen=True)
class Cut:
    """The border of the largest entries: above ``threshold``, or equal to it and before flat index ``until``."""

    threshold: float
    until: int

    def keep(self, values: Tensor, offset: int, overwrite: bool = False) -> Tensor:
        """``values`` (entries ``offset`` and on of the tensor) with all but the largest set to zero. NaN is kept.

        ``overwrite``: in their memory where that is possible.
        """
        if self == NOTHING:
            return values * 0  # not zeros: a NaN or an infinity must show in the result
        flat = values.reshape(-1)
        ties = self.ties(offset, flat.numel())
        shrink = torch.nn.functional.hardshrink
        if overwrite and ties in (0, flat.numel()) and values.is_contiguous():
            return torch.hardshrink(flat, self.below(flat.dtype) if ties else self.threshold, out=flat).view_as(values)
        if ties == 0:
            kept = shrink(flat, self.threshold)
        elif ties == flat.numel():
            kept = shrink(flat, self.below(flat.dtype))
        else:
            kept = torch.cat([shrink(flat[:ties], self.below(flat.dtype)), shrink(flat[ties:], self.threshold)])
        return kept.view(values.shape)

    def ties(self, offset: int, count: int) -> int:
        """Of entries ``offset`` and on, ``count`` in number, how many lie before ``until``."""
        return min(max(self.until - offset, 0), count)

    def below(self, dtype: torch.dtype) -> float:
        """The next smaller threshold, above which the equals of this one are."""
        kind: Any = np.float64 if dtype == torch.float64 else np.float32
        return max(0.0, float(np.nextafter(kind(self.threshold), kind(-np.inf))))


NOTHING = Cut(math.inf, 0)


def magnitude(deltas: TaskDeltas, index: int) -> Tensor:
    """``|Di|`` of a piece."""
    return deltas[index].abs_()


def cuts(deltas: TaskDeltas, ranks: Sequence[int | None], of: Sequence[int], measure: Magnitude) -> list[Cut | None]:
    """For each search j, the cut that keeps the ``ranks[j]`` largest entries of series ``of[j]``.

    None in ``ranks``, or a rank that keeps everything, gives None. Reads the tensor once in most cases, in chunks;
    what it holds beside them does not grow with the tensor or the number of experts.
    """
    found: list[Cut | None] = [None] * len(ranks)
    searches: list[tuple[int, _Search]] = []
    numel = deltas.numel
    sample = deltas.sample(min(SAMPLE, max(1 << 16, numel // 128))) if numel > _SMALL else None
    for job, (rank, series) in enumerate(zip(ranks, of, strict=True)):
        if rank == 0:
            found[job] = NOTHING
        elif rank is not None and rank < numel:
            seen = None if sample is None else _flat(measure(sample, series))
            searches.append((job, _Search(rank, numel, seen)))
    while searches:
        group = [searches.pop()]
        room = COLLECTED - group[0][1].expected
        while searches and searches[-1][1].expected <= room:
            group.append(searches.pop())
            room -= group[-1][1].expected
        _run(deltas, group, of, measure)
        for job, search in group:
            found[job] = _cut(deltas, search, of[job], measure)
    return found


def _run(deltas: TaskDeltas, group: list[tuple[int, _Search]], of: Sequence[int], measure: Magnitude) -> None:
    """One pass over the tensor for all searches of ``group``."""
    by_series: dict[int, list[_Search]] = {}
    for job, search in group:
        by_series.setdefault(of[job], []).append(search)
    for part in pieces(deltas):
        fast = stored(part) if measure is magnitude else None
        for series, searches in by_series.items():
            if fast is not None:
                for search in searches:
                    search.add(*fast.bracketed(series, search.low, search.high, search.heavy))
                continue
            magnitudes = _flat(measure(part, series))
            for search in searches:
                search.feed(magnitudes)


def _cut(deltas: TaskDeltas, search: _Search, series: int, measure: Magnitude) -> Cut:
    """The cut that a search arrived at, or that the radix search finds where the sample misled it."""
    end = deltas.offset + deltas.numel
    result = search.result()
    if result is None:
        threshold, quota = _radix(lambda: (_flat(measure(part, series)) for part in deltas.chunks()), search.rank)
        for part in deltas.chunks():
            ties = np.flatnonzero(_flat(measure(part, series)) == threshold)
            if len(ties) >= quota:
                return Cut(threshold, part.offset + int(ties[quota - 1]) + 1)
            quota -= len(ties)
        return Cut(threshold, end)  # only a NaN does not equal itself
    threshold, quota, ties_by_chunk = result
    if quota == sum(ties_by_chunk):
        return Cut(threshold, end)
    for part, count in zip(deltas.chunks(), ties_by_chunk, strict=True):
        if quota <= count:
            ties = np.flatnonzero(_flat(measure(part, series)) == threshold)
            return Cut(threshold, part.offset + int(ties[quota - 1]) + 1)
        quota -= count
    raise AssertionError("unreachable: the quota is at most the number of ties")


class _Search:
    """The search for the ``rank``-th largest of ``numel`` magnitudes that arrive chunk by chunk."""

    def __init__(self, rank: int, numel: int, sample: Array | None) -> None:
        self.rank = rank
        self.low, self.high, self.heavy, self.expected = 0.0, math.inf, np.empty(0), numel
        if sample is not None:
            self._bracket(sample, numel)
        self.above = 0
        self.collected: list[Array] = []
        self.heavy_counts: list[list[int]] = []

    def _bracket(self, sample: Array, numel: int) -> None:
        size = len(sample)
        place = size - self.rank / numel * size
        margin = _DEVIATIONS * math.sqrt(max(1.0, place * (1 - place / size))) + 8
        first, last = math.floor(place - margin), math.ceil(place + margin)
        least, most = max(first, 0), min(last, size - 1)
        parted = np.partition(sample, (least, most))
        self.low = 0.0 if first < 0 else float(parted[least])
        self.high = math.inf if last >= size else float(parted[most])
        values, counts = np.unique(parted[least : most + 1], return_counts=True)
        values = values[counts > size // _HEAVY][::-1]
        self.heavy = np.array([self.low], dtype=sample.dtype) if self.low == self.high else values
        inside = int(np.count_nonzero((sample >= self.low) & (sample <= self.high)))
        inside -= sum(int(np.count_nonzero(sample == value)) for value in values)
        self.expected = int(max(inside, 0) / size * numel)  # below zero where NaN bounds the bracket

    def feed(self, magnitudes: Array) -> None:
        """Count and collect the next chunk. A NaN is neither counted nor collected."""
        kind = magnitudes.dtype.type
        if self.low == self.high:
            self.above += int(np.count_nonzero(magnitudes > kind(self.high)))
            self.heavy_counts.append([int(np.count_nonzero(magnitudes == kind(self.low)))])
            return
        above = magnitudes > kind(self.high)
        inside = magnitudes >= kind(self.low)
        inside ^= above
        near = magnitudes[places(inside)]
        counts = []
        for value in self.heavy:
            light = near[near != value]
            counts.append(len(near) - len(light))
            near = light
        self.add(int(np.count_nonzero(above)), counts, near)

    def add(self, above: int, heavy_counts: list[int], collected: Array) -> None:
        """What the next chunk has above the bracket, of each heavy value, and else inside."""
        self.above += above
        self.heavy_counts.append(heavy_counts)
        self.collected.append(collected)

    def result(self) -> tuple[float, int, list[int]] | None:
        """The value at the rank, how many of its equals are to be kept, and how many each chunk has.

        None when the value lies outside the bracket.
        """
        needed = self.rank - self.above
        pool = np.concatenate(self.collected) if self.collected else np.empty(0)
        self.collected = np.split(pool, np.cumsum([len(part) for part in self.collected])[:-1])  # views: held once
        totals = [sum(column) for column in zip(*self.heavy_counts, strict=True)]
        if not 1 <= needed <= len(pool) + sum(totals):
            return None
        for place, (value, count) in enumerate(zip(self.heavy, totals, strict=True)):
            larger = int(np.count_nonzero(pool > value))
            if needed <= larger:
                break
            if needed <= larger + count:
                return float(value), needed - larger, [counts[place] for counts in self.heavy_counts]
            needed -= count
        threshold = np.partition(pool, len(pool) - needed)[len(pool) - needed]
        quota = needed - int(np.count_nonzero(pool > threshold))
        return float(threshold), quota, [int(np.count_nonzero(part == threshold)) for part in self.collected]


def _radix(stream: Callable[[], Iterator[Array]], rank: int) -> tuple[float, int]:
    """The ``rank``-th largest magnitude and how many of its equals count, 16 bits of it per pass.

    Non-negative floats order as their bits do, NaN above everything.
    """
    prefix, bits = 0, 32
    for shift in (48, 32, 16, 0):
        counts = np.zeros(1 << 16, dtype=np.int64)
        for magnitudes in stream():
            bits = magnitudes.dtype.itemsize * 8
            if shift >= bits:
                break
            words: Any = magnitudes.view(np.uint64 if bits == 64 else np.uint32)
            if shift + 16 < bits:
                words = words[(words >> words.dtype.type(shift + 16)) == prefix]
            digits = (words >> words.dtype.type(shift)).astype(np.intp) & 0xFFFF
            counts += np.bincount(digits, minlength=1 << 16)
        if shift >= bits:
            continue
        larger = np.cumsum(counts[::-1])[::-1] - counts
        digit = int(np.flatnonzero(larger < rank)[0])
        rank -= int(larger[digit])
        prefix = prefix << 16 | digit
    kind: tuple[Any, Any] = (np.uint64, np.float64) if bits == 64 else (np.uint32, np.float32)
    return float(np.array([prefix], dtype=kind[0]).view(kind[1])[0]), rank


def _flat(tensor: Tensor) -> Array:
    flat = tensor if tensor.dim() == 1 else tensor.reshape(-1)
    array: Array = flat.numpy() if flat.device.type == "cpu" else flat.cpu().numpy()
    return array


def places(holds: Array) -> Array:
    """Where ``holds (n)``, which is bool, is true, ascending; faster than ``np.flatnonzero`` where few are."""
    whole = len(holds) // 8 * 8
    eights = holds[:whole].view(np.uint64)  # eight entries in one comparison
    near = (eights != 0).nonzero()[0]
    found = eights[near].view(np.bool_).nonzero()[0]
    places: Array = near[found >> 3] * 8
    places += found & 7
    return places if whole == len(holds) else np.concatenate([places, holds[whole:].nonzero()[0] + whole])
