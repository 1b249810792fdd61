"""Row maps: which stored row each row of a merged embedding is, in every model. Compact, and part of the plan."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

#: Rows in more runs than this lie all over a tensor: one unit reads it once, where several would read most of it each.
SCATTERED = 4096
#: A row of a model: its number in the tensor's sources, and the number of the stored row.
Row = tuple[int, int]


class Piece(NamedTuple):
    """``length`` consecutive rows of the result from row ``first`` on, as one model is merged with them.

    ``of``: the stored rows that the first of them is: one, several whose mean it is, or none, where it is zero. The
    next row is made of the rows after these. ``padding``: the rows are the mean of all rows before the padding.
    """

    first: int
    length: int
    of: tuple[Row, ...]
    padding: bool = False


@dataclass(frozen=True, slots=True)
class RowMaps:
    """The rows of a tensor in every model that it is merged from.

    ``own``: of each source (base first) the rows that it has itself, as runs ``(first row, first stored row, count)``;
    a source that is None has the base's. ``filled``: what all other rows are, in every model that does not have them,
    as runs ``(first row, count, rows)``; see ``Piece.of``. Rows in neither are zero. ``rows``: how many there are, and
    the last ``padding`` of them are each model's mean of the rows before.
    """

    rows: int
    own: tuple[tuple[tuple[int, int, int], ...], ...]
    filled: tuple[tuple[int, int, tuple[Row, ...]], ...] = ()
    padding: int = 0

    def pieces(self, source: int, first: int, last: int) -> Iterator[Piece]:
        """Rows ``[first, last)`` of one source, in order."""
        own, end = self.own[source], self.rows - self.padding
        position, last_token = first, min(last, end)
        at = max(bisect_right(own, first, key=_start) - 1, 0)
        while position < last_token:
            while at < len(own) and own[at][0] + own[at][2] <= position:
                at += 1
            if at < len(own) and own[at][0] <= position:
                start, stored, count = own[at]
                stop = min(start + count, last_token)
                yield Piece(position, stop - position, ((source, stored + position - start),))
            else:
                stop = min(own[at][0], last_token) if at < len(own) else last_token
                yield from self._filled(position, stop)
            position = stop
        if last > max(first, end):
            begin = max(first, end)
            yield Piece(begin, last - begin, (), padding=True)

    def used(self, first: int, last: int) -> Iterator[Piece]:
        """What rows ``[first, last)`` are made of in any model, each once."""
        if last > self.rows - self.padding:
            first, last = 0, self.rows - self.padding  # a mean of all
        for source in range(len(self.own)):
            for start, stored, count in self._within(source, first, last):
                yield Piece(start, count, ((source, stored),))
        yield from (piece for piece in self._filled(first, last) if piece.of)

    def elements(self, first: int, last: int, width: int) -> Iterator[tuple[int, int, int]]:
        """The stored elements that elements ``[first, last)`` are made of, in rows of ``width``: source, from, to."""
        for piece in self.used(first // width, -(-last // width)):
            for number, row in piece.of:
                yield number, row * width, (row + piece.length) * width

    def identity(self, source: int) -> int:
        """How many first rows of a source lie where they are stored."""
        own = self.own[source]
        return own[0][2] if own and own[0][:2] == (0, 0) else 0

    @property
    def runs(self) -> int:
        """In how many runs the rows are read."""
        return sum(map(len, self.own)) + len(self.filled)

    def _within(self, source: int, first: int, last: int) -> Iterator[tuple[int, int, int]]:
        own = self.own[source]
        for start, stored, count in own[max(bisect_right(own, first, key=_start) - 1, 0) :]:
            if start >= last:
                return
            low, high = max(start, first), min(start + count, last)
            if low < high:
                yield low, stored + low - start, high - low

    def _filled(self, first: int, last: int) -> Iterator[Piece]:
        position, filled = first, self.filled
        at = max(bisect_right(filled, first, key=_start) - 1, 0)
        while position < last:
            while at < len(filled) and filled[at][0] + filled[at][1] <= position:
                at += 1
            if at < len(filled) and filled[at][0] <= position:
                start, count, of = filled[at]
                stop = min(start + count, last)
                moved = tuple((source, stored + position - start) for source, stored in of)
                yield Piece(position, stop - position, moved)
            else:
                stop = min(filled[at][0], last) if at < len(filled) else last
                yield Piece(position, stop - position, ())
            position = stop


def own_runs(stored: NDArray[np.int64]) -> tuple[tuple[int, int, int], ...]:
    """The runs of an array with the stored row of each row, -1 for none."""
    rows = np.flatnonzero(stored >= 0)
    if not len(rows):
        return ()
    breaks = np.flatnonzero((np.diff(rows) != 1) | (np.diff(stored[rows]) != 1)) + 1
    starts = np.concatenate(([0], breaks))
    counts = np.diff(np.concatenate((starts, [len(rows)])))
    return tuple(
        (int(rows[start]), int(stored[rows[start]]), int(count)) for start, count in zip(starts, counts, strict=True)
    )


def filled_runs(rows: Sequence[tuple[int, tuple[Row, ...]]]) -> tuple[tuple[int, int, tuple[Row, ...]], ...]:
    """The runs of rows that are filled, given one by one in order. Rows that are zero need none."""
    runs: list[tuple[int, int, tuple[Row, ...]]] = []
    for row, of in rows:
        if not of:
            continue
        if runs:
            start, count, before = runs[-1]
            if start + count == row and tuple((source, stored + count) for source, stored in before) == of:
                runs[-1] = (start, count + 1, before)
                continue
        runs.append((row, 1, of))
    return tuple(runs)


def _start(run: tuple[int, ...] | tuple[int, int, tuple[Row, ...]]) -> int:
    start = run[0]
    assert isinstance(start, int)
    return start
