"""Adding up what is left of the task deltas: plainly, or only where they agree in sign."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from svc_dist.methods.deltas import TaskDeltas
from svc_dist.methods.elementwise.compiled.rules import everything
from svc_dist.methods.elementwise.compiled.stored import Left
from svc_dist.methods.elementwise.plain.pieces import stored
from svc_dist.methods.parameters import CANCELLED, cancel


def weighted_sum(
    parts: Iterable[Tensor] | Left, weight: Sequence[float], normalize: bool, scale: Sequence[float] | None = None
) -> Tensor:
    """``sum_i w_i s_i Pi``, divided by ``sum_i w_i`` with ``normalize``, unless the weights cancel.

    Overwrites the parts.
    """
    total = sum(weight) if normalize and not cancel(weight) else 1.0
    shares = [factor / total for factor in _factors(weight, scale)]
    alike = len(set(shares)) == 1  # one product of the sum is enough
    factors, common = ([1.0] * len(shares), shares[0]) if alike else (shares, 1.0)
    fast = stored(parts) if isinstance(parts, TaskDeltas) else None
    if fast is not None:
        parts = Left(fast, [everything()] * len(shares))
    if isinstance(parts, Left):
        return parts.summed(factors, common)
    merged: Tensor | None = None
    for part, factor in zip(parts, factors, strict=True):
        if factor != 1:
            part.mul_(factor)  # not in one step with the sum, which would round otherwise than the compiled loop
        merged = part if merged is None else merged.add_(part)
    if merged is None:
        raise ValueError("there are no deltas to add up")
    return merged if common == 1 else merged.mul_(common)


def elected_sum(
    parts: Iterable[Tensor] | Left, weight: Sequence[float], normalize: bool, scale: Sequence[float] | None = None
) -> Tensor:
    """Per entry the sum of those ``v_i = w_i s_i Pi`` that have the sign of ``sum_i v_i`` (a zero sum elects +).

    ``normalize`` divides each entry by the sum of the weights that took part, unless they cancel. Overwrites the parts;
    one is held at a time. Yadav et al. 2023, arXiv 2306.01708, Algorithm 1 (elect, disjoint merge), with weights.

    With ``S = sum v_i`` and ``A = sum |v_i|`` the agreeing entries add up to ``(S + A) / 2`` where + is elected
    and ``(S - A) / 2`` where - is, both without cancellation.
    """
    factors = _factors(weight, scale)
    common = factors[0] if len(set(factors)) == 1 and factors[0] > 0 else 1.0  # can wait until the parts are added up
    equal = len(set(weight)) == 1 and len(weight) < 256
    if isinstance(parts, Left) and (equal or not normalize):
        unit = (weight[0] or 1.0) if normalize else 1.0
        return parts.elected([factor / common for factor in factors], 0.5 * common / unit, normalize)
    signed: Tensor | None = None
    absolute = torch.empty(0)
    ballot: _Counts | _Weights | None = None
    for part, factor, share in zip(parts, factors, weight, strict=True):
        if factor != common:
            part.mul_(factor / common)
        if normalize:
            if ballot is None:
                ballot = _Counts(part, share) if equal else _Weights(part, may_cancel=min(weight) < 0 < max(weight))
            ballot.add(part, share)
        if signed is None:
            signed, absolute = part, part.abs()
        else:
            signed.add_(part)
            absolute.add_(part.abs_())
    if signed is None:
        raise ValueError("there are no deltas to add up")
    merged = _with_sign(absolute, signed).add_(signed)
    if ballot is None:
        return merged.mul_(0.5 * common)
    return merged.mul_(0.5 * common / ballot.unit).div_(ballot.elected(signed))


def _factors(weight: Sequence[float], scale: Sequence[float] | None) -> list[float]:
    return list(weight) if scale is None else [one * other for one, other in zip(weight, scale, strict=True)]


def _with_sign(absolute: Tensor, signed: Tensor) -> Tensor:
    """``absolute`` with the signs of ``signed``, in its memory: ``torch.copysign`` takes twice as long on a CPU."""
    bits, sign = (torch.int32, -(1 << 31)) if absolute.dtype == torch.float32 else (torch.int64, -(1 << 63))
    return absolute.view(bits).bitwise_or_(signed.view(bits).bitwise_and(sign)).view(absolute.dtype)


# Selecting by a condition (torch.where, masked_fill) on random signs costs a mispredicted branch per entry:
# below, signs select by arithmetic instead.


class _Counts:
    """How many entries are positive, and how many negative, where all weights are the same: in bytes."""

    def __init__(self, like: Tensor, share: float) -> None:
        self.unit = share or 1.0
        self.positive = torch.zeros(like.shape, dtype=torch.uint8, device=like.device)
        self.negative, self.holds = torch.zeros_like(self.positive), torch.empty_like(self.positive)

    def add(self, part: Tensor, _: float) -> None:
        if part.device.type != "cpu":
            self.positive.add_(_compare("greater", part, self.holds))
            self.negative.add_(_compare("less", part, self.holds))
            return
        values, holds = part.numpy(), self.holds.numpy()  # numpy compares several times faster than torch on a CPU
        zero, truth = values.dtype.type(0), holds.view(np.bool_)
        for relation, counts in ((np.greater, self.positive.numpy()), (np.less, self.negative.numpy())):
            relation(values, zero, out=truth)
            np.add(counts, holds, out=counts)

    def elected(self, signed: Tensor) -> Tensor:
        """How many have the sign of ``signed``, at least 1: where nobody has it the sum is zero anyway."""
        plus = _compare("greater_equal", signed, self.holds).neg_()  # all bits, or none
        count = self.positive.bitwise_xor_(self.negative).bitwise_and_(plus).bitwise_xor_(self.negative)
        return count.clamp_min_(1).to(signed.dtype)


class _Weights:
    """The sum of the weights of positive entries, and of negative ones."""

    unit = 1.0

    def __init__(self, like: Tensor, may_cancel: bool) -> None:
        self.sizes = _Weights(like, False) if may_cancel else None  # of the weights' absolute values
        self.positive, self.negative = torch.zeros_like(like), torch.zeros_like(like)
        self.holds = torch.empty_like(like)

    def add(self, part: Tensor, share: float) -> None:
        self.positive.add_(torch.gt(part, 0, out=self.holds), alpha=share)
        self.negative.add_(torch.lt(part, 0, out=self.holds), alpha=share)
        if self.sizes is not None:
            self.sizes.add(part, abs(share))

    def elected(self, signed: Tensor) -> Tensor:
        """The weight of those that have the sign of ``signed``; 1 where it is zero but for rounding."""
        total = self.positive.mul_(torch.ge(signed, 0, out=self.holds))
        total.add_(self.negative.mul_(torch.lt(signed, 0, out=self.holds)))
        if self.sizes is not None:
            total.mul_(torch.gt(total.abs(), self.sizes.elected(signed).mul_(CANCELLED), out=self.holds))
        return total.add_(torch.eq(total, 0, out=self.holds))


def _compare(relation: str, part: Tensor, holds: Tensor) -> Tensor:
    """1 in ``holds``, which are bytes, where ``relation`` to zero holds, else 0."""
    if part.device.type != "cpu":
        return holds.copy_(getattr(torch, relation)(part, 0))
    values = part.numpy()
    getattr(np, relation)(values, values.dtype.type(0), out=holds.numpy().view(np.bool_))
    return holds
