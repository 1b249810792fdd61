"""Matrices that reach a device in one copy: of a batch, or of tensors of their own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from svc_dist.linalg.devices.transfer import sent_together
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


def stacked(each: Sequence[TaskDeltas], rows: int, columns: int) -> TaskDeltas:
    """The deltas of tensors ``(m, n)`` as those of a batch of matrices ``(b, m, n)``, whose inputs lie on the device.

    All have a base and the same number of experts, none of them None, in the same dtypes.
    """
    device = each[0].device
    inputs = zip(*([one.base_view, *one.experts] for one in each), strict=True)
    base, *experts = (
        sent_together([view for view in views if view is not None], device).view(-1, rows, columns) for views in inputs
    )
    return TaskDeltas(experts, base, precision=each[0].precision, device=device, row=columns)
