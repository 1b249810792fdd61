"""How much of a tensor is handled at once. Importing this loads no torch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from svc_dist.linalg.devices.grain import GRAIN

if TYPE_CHECKING:
    from torch import Tensor

#: Elements that element-wise arithmetic handles at once: small enough for the cache, large enough to hide call costs.
#: Part of the results' definition on the CPU (vector loops treat the end of a chunk differently): it never depends on
#: the machine.
CHUNK = 1 << 18
#: Entries that a search for a threshold samples at most, and collects at once.
SAMPLE, COLLECTED = 1 << 20, 1 << 22


def chunks(numel: int, row: int, whole_rows: bool = False, size: int = CHUNK) -> Iterator[tuple[int, int]]:
    """Element ranges of about ``size`` that end at the end of a row.

    A row longer than a chunk is cut as if rows did not matter, unless ``whole_rows``: then it is one range.
    """
    unit = max(row, 1) if whole_rows or row <= size else 1
    step = max(1, size // unit) * unit
    for start in range(0, numel, step):
        yield start, min(start + step, numel)


def together_on_device(rows: int, columns: int) -> int:
    """How many matrices of a batch reach a device in one copy: a large one alone."""
    return max(1, GRAIN // max(rows * columns, 1))


def entries(view: Tensor, start: int, end: int) -> Tensor:
    """Entries ``[start, end)`` of a flattened view. Of a transposed matrix only the rows of these are copied."""
    if view.is_contiguous():
        return view.reshape(-1)[start:end]
    length = view[0].numel()
    first = start // length
    return view[first : -(-end // length)].reshape(-1)[start - first * length : end - first * length]


def in_any_order(view: Tensor) -> Tensor:
    """All entries of a view, in the order of its bytes where it is a transposed matrix: without a copy."""
    return (view.T if view.dim() == 2 and view.T.is_contiguous() else view).reshape(-1)
