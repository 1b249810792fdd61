"""Matrices of a batch that reach a device in one copy."""

from __future__ import annotations

from collections.abc import Iterator

from svc_dist.methods.chunking import together_on_device
from svc_dist.methods.deltas import TaskDeltas


def groups(deltas: TaskDeltas, batch: tuple[int, int, int], stay: int) -> Iterator[tuple[int, int, TaskDeltas]]:
    """Some matrices of a batch ``(count, m, n)``: the first one's number, how many, and deltas: theirs on a device,
    which small ones reach together; elsewhere those of all. ``stay``: see ``merged_chunks``.
    """
    count, rows, columns = batch
    together = together_on_device(rows, columns) if stay else 1
    for first in range(0, count, together):
        number = min(together, count - first)
        whole = number == count or not stay
        group = deltas if whole else deltas.chunk(first * rows * columns, (first + number) * rows * columns)
        yield first, number, group.resident(stay) if stay else group
        del group
