"""Merge methods that drop entries of the task deltas at random and rescale the rest: DARE and DELLA."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from svc_dist.methods.deltas import TaskDeltas
from svc_dist.methods.elementwise.compiled import rules
from svc_dist.methods.elementwise.compiled.stored import Left
from svc_dist.methods.elementwise.consensus import elected_sum, weighted_sum
from svc_dist.methods.elementwise.draws import bernoulli, stream_key, uniform
from svc_dist.methods.elementwise.plain.pieces import stored
from svc_dist.methods.parameters import require_della_range


def dare_linear(
    deltas: TaskDeltas, *, weight: Sequence[float], density: Sequence[float], normalize: bool, rescale: bool, seed: int
) -> Tensor:
    """The weighted sum of deltas whose entries are kept with probability ``density`` and then divided by it.

    Yu et al. 2023, arXiv 2311.03099, equation 2.
    """
    return weighted_sum(_dropped(deltas, density, seed), weight, normalize, _rescaling(density, rescale))


def dare_ties(
    deltas: TaskDeltas, *, weight: Sequence[float], density: Sequence[float], normalize: bool, rescale: bool, seed: int
) -> Tensor:
    """DARE with TIES's election of the sign instead of the plain sum."""
    return elected_sum(_dropped(deltas, density, seed), weight, normalize, _rescaling(density, rescale))


def della_linear(
    deltas: TaskDeltas,
    *,
    weight: Sequence[float],
    density: Sequence[float],
    epsilon: Sequence[float],
    normalize: bool,
    rescale: bool,
    seed: int,
) -> Tensor:
    """The weighted sum of deltas whose entries are kept by magnitude rank (MagPrune).

    Deep et al. 2024, arXiv 2406.11617, section 3.

    Within a row of n entries the one of rank r (0 the smallest) is kept with probability
    ``density - epsilon + 2 epsilon r / (n - 1)`` and then divided by it. The deltas must hold whole rows.
    """
    return weighted_sum(_pruned(deltas, density, epsilon, rescale, seed), weight, normalize)


def della(
    deltas: TaskDeltas,
    *,
    weight: Sequence[float],
    density: Sequence[float],
    epsilon: Sequence[float],
    normalize: bool,
    rescale: bool,
    seed: int,
) -> Tensor:
    """MagPrune as in ``della_linear``, then TIES's election of the sign."""
    return elected_sum(_pruned(deltas, density, epsilon, rescale, seed), weight, normalize)


def _rescaling(density: Sequence[float], rescale: bool) -> list[float]:
    return [1 / share if rescale and share > 0 else 1.0 for share in density]


def _dropped(deltas: TaskDeltas, density: Sequence[float], seed: int) -> Left | Iterator[Tensor]:
    fast = stored(deltas)
    if fast is None:
        return _dropped_by_torch(deltas, density, seed)
    return Left(fast, [_rule(deltas, index, share, seed) for index, share in enumerate(density)])


def _rule(deltas: TaskDeltas, expert: int, density: float, seed: int) -> rules.Rule:
    if density >= 1:
        return rules.everything()
    if density <= 0:
        return rules.nothing()
    return rules.drop(stream_key(seed, deltas.tensor, expert, "dare"), density)


def _dropped_by_torch(deltas: TaskDeltas, density: Sequence[float], seed: int) -> Iterator[Tensor]:
    start, end = deltas.offset, deltas.offset + deltas.numel
    for index, share in enumerate(density):
        delta = deltas[index]
        if share >= 1:
            yield delta
        elif share <= 0:
            yield delta.mul_(0)
        else:
            taken = bernoulli(stream_key(seed, deltas.tensor, index, "dare"), start, end, share)
            mask = torch.from_numpy(taken).to(delta.device, delta.dtype)
            yield delta.mul_(
                mask if mask.shape == delta.shape else mask.view(delta.shape)
            )  # a product, so that a NaN shows although it was dropped


def _pruned(
    deltas: TaskDeltas, density: Sequence[float], epsilon: Sequence[float], rescale: bool, seed: int
) -> Iterator[Tensor]:
    require_della_range({"density": density, "epsilon": epsilon})
    start, end = deltas.offset, deltas.offset + deltas.numel
    for index, (share, spread) in enumerate(zip(density, epsilon, strict=True)):
        delta = deltas[index]
        if share >= 1:
            yield delta
            continue
        if share <= 0:
            yield delta.mul_(0)
            continue
        draws = torch.from_numpy(uniform(stream_key(seed, deltas.tensor, index, "della"), start, end))
        probability = _keep_probability(delta.reshape(-1, max(deltas.row, 1)), share, spread).view(-1)
        factor = torch.empty_like(probability)
        torch.lt(draws.to(delta.device).to(delta.dtype), probability, out=factor)
        if rescale:
            factor.div_(probability)
        yield delta.mul_(factor.view(delta.shape))


def _keep_probability(rows: Tensor, density: float, epsilon: float) -> Tensor:
    """Probability of being kept, by magnitude rank within each of ``rows``, in their dtype and shape."""
    length = rows.shape[1]
    if length < 2:
        return torch.full_like(rows, density)
    ranks = torch.empty_like(rows)
    ranks.scatter_(1, _order(rows), torch.arange(length, dtype=rows.dtype, device=rows.device).expand_as(rows))
    return ranks.mul_(2 * epsilon / (length - 1)).add_(density - epsilon)


def _order(rows: Tensor) -> Tensor:
    """Places of each row's entries in ascending order of magnitude, equal ones in order of place. int64."""
    if rows.dtype != torch.float32:
        return rows.abs().sort(dim=1, stable=True).indices
    # Magnitude bits above, place below: one sort of plain integers, several times faster than a stable argsort.
    packed = rows.abs().cpu().numpy().view(np.uint32).astype(np.uint64)
    packed <<= np.uint64(32)
    packed |= np.arange(rows.shape[1], dtype=np.uint64)
    packed.sort(axis=1)
    packed &= np.uint64(0xFFFFFFFF)
    return torch.from_numpy(packed.view(np.int64)).to(rows.device)
