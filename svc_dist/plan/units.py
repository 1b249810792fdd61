"""Cutting shards into units of work, each with its cost."""

from __future__ import annotations

from collections.abc import Sequence

from svc_dist.checkpoint.header import TensorSpec
from svc_dist.checkpoint.layout import Range, Shard, ranges
from svc_dist.methods.registry import METHODS
from svc_dist.plan.costs import memory, takes_matrices, work
from svc_dist.plan.dispositions import Disposition
from svc_dist.plan.model import PlannedTensor, Unit
from svc_dist.plan.settings import Settings


def plan_units(
    layout: Sequence[Shard],
    table: Sequence[Sequence[Disposition]],
    tensors: Sequence[PlannedTensor],
    settings: Settings,
) -> tuple[Unit, ...]:
    """The units of all shards of one result. ``table``: the list of dispositions of each result."""
    number_of = {tensor.name: number for number, tensor in enumerate(tensors)}

    def grain(spec: TensorSpec) -> int:
        tensor = tensors[number_of[spec.name]]
        return _grain(tensor, [dispositions[tensor.disposition] for dispositions in table])

    units: list[Unit] = []
    for shard_number, shard in enumerate(layout):
        for cut in ranges(shard, grain):
            pieces = tuple((number_of[piece.tensor], piece.start, piece.end) for piece in cut.pieces)
            units.append(_unit(f"{len(units):06d}", shard_number, cut, pieces, table, tensors, settings))
    return tuple(units)


def _grain(tensor: PlannedTensor, dispositions: Sequence[Disposition]) -> int:
    """How many elements stay in one unit: a row or a matrix; 0 for the whole tensor."""
    method = None if dispositions[0].method is None else METHODS[dispositions[0].method]
    if method is not None and method.statistics is not None:
        return 0
    if takes_matrices(tensor, dispositions):
        assert tensor.batch is not None
        return tensor.batch[1] * tensor.batch[2] if tensor.batch[0] > 1 else 0
    return 0 if method is not None and method.access != "one pass" else tensor.row


def _unit(
    name: str,
    shard: int,
    cut: Range,
    pieces: tuple[tuple[int, int, int], ...],
    table: Sequence[Sequence[Disposition]],
    tensors: Sequence[PlannedTensor],
    settings: Settings,
) -> Unit:
    bytes_in, flops, peak = 0, 0.0, 0
    for number, first, last in pieces:
        tensor = tensors[number]
        alike = [dispositions[tensor.disposition] for dispositions in table]
        bytes_in += sum(part.end - part.start for _, part in tensor.reads(first, last))
        flops += work(tensor, alike, last - first, settings.precision).flops
        peak = max(peak, memory(tensor, alike, settings.precision))
    return Unit(name, shard, cut.start, cut.end, pieces, bytes_in, (cut.end - cut.start) * len(table), flops, peak)
