"""Merging only what differs from the base by more than a threshold: the rule of Assembly of Experts.

Klagges et al. 2025, arXiv 2506.14794: a tensor becomes the weighted mean of the models only where the normalised
Frobenius norm of some model's difference from the base exceeds ``delta``; elsewhere it stays the base's.

Here the difference is relative: ``||Wi - W0||_F / ||W0||_F``. It has no unit, so that one threshold serves norms,
routers and projections alike, whatever their size and however they are stored (the numbers in files of FP8 are codes,
which mean something only times their scales). A norm divided by the square root of the number of entries would compare
tensors by the size of their weights first. Thresholds of the paper are therefore none of ours: measure, then choose.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor

from svc_dist.methods.deltas import TaskDeltas


def relative_differences(deltas: TaskDeltas) -> list[float]:
    """``||Di||_F / ||W0||_F`` of each expert, exactly, formed chunk by chunk; infinite where the base alone is zero."""
    if deltas.all_zero():
        return [0.0] * len(deltas)
    base, squares = 0.0, [0.0] * len(deltas)
    for chunk in deltas.chunks():
        base += _square(chunk.base)
        for index in range(len(chunk)):
            squares[index] += _square(chunk[index])
    return [math.sqrt(one / base) if base else math.inf if one else 0.0 for one in squares]


def _short(value: float) -> float | None:
    """Six digits, as JSON has them."""
    return float(f"{value:.6g}") if math.isfinite(value) else None


def _square(values: Tensor) -> float:
    flat = values.reshape(-1).double()
    return float(flat.dot(flat))


class Differing:
    """Which results merge which blocks of a tensor: those where some expert differs by more than the result's least.

    A block is one matrix of a tensor that holds several (fused experts): each decides for itself, as where experts are
    stored one by one. Else it is the whole tensor. ``least``: of each result, None for one that merges everything;
    ``number``: of the first block, None where it is the whole tensor.
    """

    def __init__(
        self, deltas: TaskDeltas, least: Sequence[float | None], block: int, number: int | None = None
    ) -> None:
        self._deltas, self._least, self._block, self._number = deltas, least, block, number
        self._asked = any(one is not None for one in least)
        #: For each block the relative difference of each expert, and which results merge it.
        self.blocks: list[tuple[list[float], list[bool]]] = []

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """The elements of each block, from and to."""
        step = self._block if self._asked else max(self._deltas.numel, 1)
        return ((start, start + step) for start in range(0, self._deltas.numel, step))

    def merges(self, start: int) -> list[bool]:
        """For each result whether it merges the block that begins with this element.

        What is not finite differs: the error about it names the tensor.
        """
        if not self._asked:
            return [True] * len(self._least)
        number = start // self._block
        while number >= len(self.blocks):
            start = len(self.blocks) * self._block
            found = relative_differences(self._deltas.chunk(start, start + self._block))
            largest = math.nan if any(map(math.isnan, found)) else max(found)
            self.blocks.append((found, [least is None or not largest <= least for least in self._least]))
        return self.blocks[number][1]

    def records(self, tensor: str, models: Sequence[int] | None = None) -> list[dict[str, Any]]:
        """What a receipt says of the blocks. ``matrix``: its number, where the tensor holds several; ``models``: the
        numbers of the base and of the experts, where not all take part; ``differences``: of each expert, None where the
        base is zero; ``merged``: by result."""
        of = {"tensor": tensor} | ({} if models is None else {"models": list(models)})
        return [
            of
            | ({} if self._number is None else {"matrix": self._number + number})
            | {"differences": [_short(one) for one in found], "merged": merged}
            for number, (found, merged) in enumerate(self.blocks)
        ]
