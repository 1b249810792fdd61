"""Flat task deltas as their inputs store them, in bfloat16: what compiled loops read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from svc_dist.methods.elementwise.compiled.rules import ALONE, AVERAGED, ELECTED, Rule, everything

Array = np.ndarray[Any, Any]

_LARGEST = int(np.float32(torch.finfo(torch.bfloat16).max).view(np.uint32))


class Stored(NamedTuple):
    """The experts and the base of flat deltas by the addresses of their first entries, which their owner keeps alive.

    ``offset``: number of the first entry in its tensor. Every result is fresh memory, in float32.
    """

    loops: Any
    experts: Sequence[int]
    base: int
    size: int
    offset: int

    def delta(self, expert: int) -> Tensor:
        """The delta of ``expert``."""
        return self.merged([expert], [everything()], [1.0], 1.0, ALONE)

    def merged(
        self, experts: Sequence[int], rules: Sequence[Rule], factors: Sequence[float], common: float, how: int
    ) -> Tensor:
        """The deltas of ``experts``, each after its rule times its factor, merged ``how``, and times ``common``."""
        result = np.empty(self.size, np.float32)
        self.loops.merged(
            np.array([self.experts[expert] for expert in experts], np.uint64), self.base, self.offset,
            np.array(rules, np.uint64), np.array(factors, np.float32), np.float32(common), how, result,
        )  # fmt: skip
        return torch.from_numpy(result)

    def bracketed(self, expert: int, low: float, high: float, heavy: Array) -> tuple[int, list[int], Array]:
        """Of the magnitudes of a delta: how many are above ``high``, how many equal each of ``heavy``, and what else is
        in ``[low, high]``."""
        counts, collected = np.zeros(1 + len(heavy), np.int64), np.empty(self.size, np.float32)
        found = self.loops.bracketed(
            self.experts[expert], self.base, self.size, np.float32(low), np.float32(high),
            np.ascontiguousarray(heavy, np.float32), counts, collected,
        )  # fmt: skip
        return int(counts[0]), counts[1:].tolist(), collected[:found].copy()

    def added(self, delta: Tensor) -> Tensor | None:
        """The base plus ``delta`` in bfloat16; None where an entry does not fit into it, or is no number."""
        result = np.empty(self.size, np.uint16)
        fits = self.loops.added(self.base, delta.numpy(), _LARGEST, result)
        return torch.from_numpy(result).view(torch.bfloat16) if fits else None


@dataclass(frozen=True)
class Left:
    """What rules leave of stored deltas, one expert after another."""

    stored: Stored
    rules: Sequence[Rule]

    def __iter__(self) -> Iterator[Tensor]:
        return (self.stored.merged([expert], [rule], [1.0], 1.0, ALONE) for expert, rule in enumerate(self.rules))

    def elected(self, factors: Sequence[float], common: float, average: bool) -> Tensor:
        """These parts, each times its factor, as ``elected_sum`` adds them up, times ``common``.

        ``average``: over the number of those that took part.
        """
        experts = range(len(self.rules))
        return self.stored.merged(experts, self.rules, factors, common, AVERAGED if average else ELECTED)
