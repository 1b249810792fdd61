"""Merge methods that look at which entries the experts change: NearSwap, Arcee Fusion and RAM."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from svc_dist.methods.deltas import TaskDeltas

_LEAST = 1e-6  # a difference that NearSwap takes for this at least
_SAMPLED = 1_000_000  # importances that a threshold is taken from, at most


def nearswap(deltas: TaskDeltas, *, t: float) -> Tensor:
    """``M = min(1, t / |D|) D``: entries that are closer than ``t`` become the expert's, others move by ``t``.

    alchemonaut, QuartetAnemoi-70B; as in mergekit.
    """
    delta = deltas[0]
    return delta.mul_((t / delta.abs().clamp_min_(_LEAST)).clamp_(0, 1))


def arcee_fusion(deltas: TaskDeltas, *, statistics: float) -> Tensor:
    """The delta's entries whose importance reaches the threshold ``statistics``; the others are the base's.

    Arcee, as in mergekit: the importance of an entry is its difference times the Kullback-Leibler divergence of
    its row's softmax in the expert from that in the base.
    """
    delta = deltas[0]
    return delta.mul_(_importance(deltas) >= statistics)


def fusion_threshold(deltas: TaskDeltas) -> float:
    """``median + 1.5 (q3 - q1)`` of a whole tensor's importances, or of a million spread evenly over it.

    mergekit draws that million at random, so that its merges of larger tensors differ from run to run.
    """
    picked: list[Tensor] = []
    count = min(deltas.numel, _SAMPLED)
    places = torch.arange(count, dtype=torch.int64) * deltas.numel // count
    for part in deltas.chunks(whole_rows=True):
        inside = places[(places >= part.offset - deltas.offset) & (places < part.offset - deltas.offset + part.numel)]
        picked.append(_importance(part).cpu()[inside - (part.offset - deltas.offset)])
    ordered = torch.cat(picked).sort().values
    ranks = (torch.tensor([0.25, 0.5, 0.75]) * (count - 1)).long()
    first, median, third = ordered[ranks].tolist()
    return float(median + 1.5 * (third - first))


def ram(deltas: TaskDeltas, *, epsilon: float) -> Tensor:
    """Per entry, the mean of the deltas whose magnitude exceeds ``epsilon``. arXiv 2601.13572 (RAM)."""
    merged, count = _changed(deltas, epsilon, None)
    return merged.div_(count.clamp_min_(1))


def ramplus_tl(deltas: TaskDeltas, *, epsilon: float, statistics: Sequence[float], **_: Any) -> Tensor:
    """As ``ram``, with what expert i alone changes multiplied by ``statistics[i]``."""
    alone, count = _changed(deltas, epsilon, statistics)
    merged, _count = _changed(deltas, epsilon, None)
    return torch.where(count == 1, alone, merged.div_(count.clamp_min(1)))


def ramplus_scales(deltas: TaskDeltas, *, r: float, alpha: float, epsilon: float) -> list[float]:
    """``1 + r min(alpha, shared_i / unique_i)`` of a whole tensor, for the entries that expert i changes with others
    and alone."""
    shared, unique = [0] * len(deltas), [0] * len(deltas)
    for part in deltas.chunks():
        _, count = _changed(part, epsilon, None)
        for index in range(len(deltas)):
            changed = part[index].abs_() > epsilon
            alone = int(torch.count_nonzero(changed & (count == 1)))
            unique[index] += alone
            shared[index] += int(torch.count_nonzero(changed)) - alone
    return [1 + r * min(max(both / max(one, epsilon), 0.0), alpha) for both, one in zip(shared, unique, strict=True)]


def _importance(deltas: TaskDeltas) -> Tensor:
    """The importance of each entry of whole rows, flat."""
    shape = (-1, max(deltas.row, 1))
    base, model = deltas.base.view(shape), deltas.model(0).view(shape)
    ours, theirs = (torch.softmax(rows, dim=-1).add_(1e-8) for rows in (base, model))
    divergence = (theirs * torch.log(theirs / ours)).sum(dim=-1, keepdim=True)
    return model.sub_(base).abs_().mul_(divergence).view(-1)


def _changed(deltas: TaskDeltas, epsilon: float, scales: Sequence[float] | None) -> tuple[Tensor, Tensor]:
    """The sum of the deltas beyond ``epsilon``, each times its scale, and how many there are per entry."""
    total = torch.zeros(deltas.shape, dtype=deltas.dtype, device=deltas.device)
    count = torch.zeros_like(total)
    for index in range(len(deltas)):
        delta = deltas[index]
        changed = (delta.abs() > epsilon).to(delta.dtype)
        total.addcmul_(delta, changed, value=1 if scales is None else scales[index])
        count.add_(changed)
    return total, count
