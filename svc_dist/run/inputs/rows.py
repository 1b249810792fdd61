"""The rows of one model in the order of the result: stored elsewhere, another model's, a mean, or zero."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from svc_dist.methods.chunking import CHUNK
from svc_dist.plan.vocabulary.row_maps import Piece, RowMaps
from svc_dist.run.inputs.joined import JoinedViews

#: The stored elements ``[first, last)`` of a source, as flat views one after the other.
Stored = Callable[[int, int, int], list[Tensor]]
_NAMES = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}


class StoredRows:
    """The stored rows that rows ``[first, last)`` are made of in any model: each range is mapped as it is read."""

    def __init__(self, maps: RowMaps, first: int, last: int, width: int, stored: Stored) -> None:
        self.maps, self.first, self.last, self.width = maps, first, last, width
        self._views: dict[int, list[tuple[int, int, list[Tensor]]]] = {}
        for piece in maps.used(first, last):
            for source, row in piece.of:
                views = stored(source, row * width, (row + piece.length) * width)
                self._views.setdefault(source, []).append((row, row + piece.length, views))
        for views_of in self._views.values():
            views_of.sort(key=lambda one: one[:2])

    def rows(self, source: int, first: int, count: int) -> Iterator[Tensor]:
        """Stored rows of a source, as flat views one after the other."""
        views_of = self._views[source]
        at = bisect_right(views_of, first, key=lambda one: one[0]) - 1
        while views_of[at][1] < first + count:
            at -= 1
        start, end = ((row - views_of[at][0]) * self.width for row in (first, first + count))
        for view in views_of[at][2]:
            low, high = max(start, 0), min(end, view.numel())
            if low < high:
                yield view[low:high]
            start, end = start - view.numel(), end - view.numel()

    def view(self, number: int, joined: JoinedViews) -> Tensor:
        """The rows of source ``number``: mapped where they lie together, else copied to scratch space.

        Rows of several dtypes, and means, are float32 (float64 where one is), which holds every stored value exactly.
        """
        pieces = list(self.maps.pieces(number, self.first, self.last))
        if len(pieces) == 1 and len(pieces[0].of) == 1:
            views = list(self.rows(*pieces[0].of[0], pieces[0].length))
            if len(views) == 1:
                return views[0]
        parts = (part for piece in pieces for part in self._parts(number, piece))
        return joined.view(parts, (self.last - self.first) * self.width, _NAMES[self._dtype(number, pieces)])

    def _dtype(self, number: int, pieces: Sequence[Piece]) -> torch.dtype:
        computed = any(len(piece.of) > 1 or piece.padding for piece in pieces)
        if any(piece.padding for piece in pieces):
            pieces = list(self.maps.pieces(number, 0, self.maps.rows - self.maps.padding))
        sources = {source for piece in pieces for source, _ in piece.of} or {number}
        dtypes = {self._views[source][0][2][0].dtype for source in sources if source in self._views}
        if len(dtypes) == 1 and not computed:
            return next(iter(dtypes))
        return torch.float64 if torch.float64 in dtypes else torch.float32

    def _parts(self, number: int, piece: Piece) -> Iterator[Tensor]:
        """The elements of a piece in order, in flat parts."""
        if len(piece.of) == 1:
            yield from self.rows(*piece.of[0], piece.length)
            return
        step = max(1, CHUNK // self.width)
        mean = self._mean_of_all(number) if piece.padding else None
        for start in range(0, piece.length, step):
            count = min(step, piece.length - start)
            if mean is not None:
                yield mean.repeat(count)
            elif not piece.of:
                yield torch.zeros(count * self.width)
            else:
                yield self._mean(piece, start, count)

    def _mean(self, piece: Piece, start: int, count: int) -> Tensor:
        """The mean of stored rows, summed in float64."""
        total = torch.zeros(count * self.width, dtype=torch.float64)
        for source, row in piece.of:
            total += torch.cat([view.double() for view in self.rows(source, row + start, count)])
        return total / len(piece.of)

    def _mean_of_all(self, number: int) -> Tensor:
        """The mean of all rows before the padding."""
        total = torch.zeros(self.width, dtype=torch.float64)
        rows = self.maps.rows - self.maps.padding
        step = max(1, CHUNK // self.width) * self.width
        for piece in self.maps.pieces(number, 0, rows):
            for part in self._parts(number, piece):
                for start in range(0, part.numel(), step):
                    total += part[start : start + step].double().view(-1, self.width).sum(0)
        return total / rows
