"""Flat task deltas as their inputs store them, in bfloat16: what compiled loops read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from ctypes import string_at
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from svc_dist.methods.elementwise.compiled.rules import ALONE, AVERAGED, ELECTED, SUMMED, Rule, everything

Array = np.ndarray[Any, Any]

_BYTES = 2  # of an entry
_FIRST = 16  # entries by which deltas are compared first
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

    def part(self, start: int, end: int) -> Stored:
        """Entries ``[start, end)`` of these."""
        experts = [address + _BYTES * start for address in self.experts]
        return Stored(self.loops, experts, self.base + _BYTES * start, end - start, self.offset + start)

    def differs_at_once(self) -> bool:
        """Whether a delta is not zero among the first entries, so that nobody needs to look at all."""
        base = self._first(self.base)
        for expert in map(self._first, self.experts):
            if expert != base and not all((a | b) & 0x7FFF == 0 for a, b in zip(expert, base, strict=True) if a != b):
                return True
        return False

    def _first(self, address: int) -> memoryview:
        return memoryview(string_at(address, _BYTES * min(self.size, _FIRST))).cast("H")

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

    def summed(self, factors: Sequence[float], common: float) -> Tensor:
        """The sum of these parts, each times its factor, times ``common``."""
        return self.stored.merged(range(len(self.rules)), self.rules, factors, common, SUMMED)

    def elected(self, factors: Sequence[float], common: float, average: bool) -> Tensor:
        """These parts, each times its factor, as ``elected_sum`` adds them up, times ``common``.

        ``average``: over the number of those that took part.
        """
        experts = range(len(self.rules))
        return self.stored.merged(experts, self.rules, factors, common, AVERAGED if average else ELECTED)
