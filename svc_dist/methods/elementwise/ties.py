"""Merge methods that trim each task delta by magnitude over the whole tensor: TIES and Model Breadcrumbs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from svc_dist.methods.deltas import TaskDeltas
from svc_dist.methods.elementwise.compiled import rules
from svc_dist.methods.elementwise.compiled.stored import Left
from svc_dist.methods.elementwise.consensus import elected_sum, weighted_sum
from svc_dist.methods.elementwise.plain.pieces import stored
from svc_dist.methods.elementwise.selection import NOTHING, Cut, cuts, magnitude

#: Per expert: the cut above which entries are outliers, and the cut above which they are kept. None cuts nothing.
Cuts = list[tuple[Cut | None, Cut | None]]


class Trims(NamedTuple):
    """Where each expert's delta of a whole tensor is cut, and what is left of it multiplied by (None: 1)."""

    cuts: Cuts
    scale: list[float] | None


def ties(
    deltas: TaskDeltas,
    *,
    weight: Sequence[float],
    density: Sequence[float],
    normalize: bool,
    rescale: bool = False,
    statistics: Trims,
) -> Tensor:
    """Trim, elect sign, disjoint merge. Yadav et al. 2023, arXiv 2306.01708, Algorithm 1.

    Each expert keeps its ``int(density * numel)`` entries of largest magnitude of the tensor. ``rescale``: these are
    scaled to the L1 norm of the whole delta, as mergekit can.
    """
    return elected_sum(_trimmed(deltas, statistics.cuts), weight, normalize, statistics.scale)


def breadcrumbs(
    deltas: TaskDeltas,
    *,
    weight: Sequence[float],
    density: Sequence[float],
    gamma: Sequence[float],
    normalize: bool,
    rescale: bool = False,
    statistics: Trims,
) -> Tensor:
    """The weighted sum of deltas without outliers and small entries. Davari & Belilovsky 2023, arXiv 2312.06795.

    Each expert loses its ``int(gamma * numel)`` entries of largest magnitude and keeps the ``int(density * numel)``
    largest of the rest; where fewer are left, fewer outliers are dropped.
    """
    return weighted_sum(_trimmed(deltas, statistics.cuts), weight, normalize, statistics.scale)


def breadcrumbs_ties(
    deltas: TaskDeltas,
    *,
    weight: Sequence[float],
    density: Sequence[float],
    gamma: Sequence[float],
    normalize: bool,
    rescale: bool = False,
    statistics: Trims,
) -> Tensor:
    """Breadcrumbs' trimming with TIES's election of the sign."""
    return elected_sum(_trimmed(deltas, statistics.cuts), weight, normalize, statistics.scale)


def ties_cuts(deltas: TaskDeltas, *, density: Sequence[float], rescale: bool = False, **_: Any) -> Trims:
    """Where TIES cuts each expert's delta of a whole tensor."""
    ranks = [None if share >= 1 else int(share * deltas.numel) for share in density]
    return _trims(deltas, [(None, cut) for cut in cuts(deltas, ranks, range(len(deltas)), magnitude)], rescale)


def breadcrumbs_cuts(
    deltas: TaskDeltas, *, density: Sequence[float], gamma: Sequence[float], rescale: bool = False, **_: Any
) -> Trims:
    """Where Breadcrumbs cuts each expert's delta of a whole tensor."""
    numel, experts = deltas.numel, range(len(deltas))
    outliers: list[int | None] = []
    kept: list[int | None] = []
    for share, outlying in zip(density, gamma, strict=True):
        count = int(share * numel)
        dropped = min(int(outlying * numel), numel - count)
        whole = share >= 1
        outliers.append(None if whole or dropped == 0 else dropped)
        kept.append(None if whole else dropped + count)
    found = cuts(deltas, [*outliers, *kept], [*experts, *experts], magnitude)
    return _trims(deltas, list(zip(found[: len(deltas)], found[len(deltas) :], strict=True)), rescale)


def _trims(deltas: TaskDeltas, found: Cuts, rescale: bool) -> Trims:
    """The cuts, and with ``rescale`` one more pass for the L1 norms before and after them."""
    if not rescale:
        return Trims(found, None)
    before, after = [0.0] * len(deltas), [0.0] * len(deltas)
    for part in deltas.chunks():
        for index, trimmed in enumerate(_trimmed(part, found)):
            before[index] += float(part[index].abs_().sum(dtype=torch.float64))
            after[index] += float(trimmed.abs_().sum(dtype=torch.float64))
    return Trims(found, [one / other if other else 1.0 for one, other in zip(before, after, strict=True)])


def _trimmed(deltas: TaskDeltas, statistics: Cuts) -> Left | Iterator[Tensor]:
    fast = stored(deltas)
    if fast is None or any(outliers is not None for outliers, _ in statistics):
        return _trimmed_by_torch(deltas, statistics)
    return Left(fast, [_rule(kept, deltas) for _, kept in statistics])


def _rule(cut: Cut | None, deltas: TaskDeltas) -> rules.Rule:
    if cut is None:
        return rules.everything()
    if cut == NOTHING:
        return rules.nothing()
    return rules.trim(cut.ties(deltas.offset, deltas.numel), cut.below(deltas.dtype), cut.threshold)


def _trimmed_by_torch(deltas: TaskDeltas, statistics: Cuts) -> Iterator[Tensor]:
    for delta, (outliers, kept) in zip(deltas, statistics, strict=True):
        trimmed = delta if kept is None else kept.keep(delta, deltas.offset, overwrite=outliers is None)
        yield trimmed if outliers is None else trimmed.sub_(outliers.keep(delta, deltas.offset))
