"""Which entries of a delta are left, as the numbers that compiled loops take."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

#: Seven words: the kind, then its numbers.
Rule = np.ndarray[Any, np.dtype[np.uint64]]

EVERYTHING, NOTHING, TRIM, DROP = range(4)
#: What is made of the parts that are left.
ALONE, SUMMED, ELECTED, AVERAGED = range(4)


def everything() -> Rule:
    """All entries as they are."""
    return np.zeros(7, np.uint64)


def nothing() -> Rule:
    """All entries times zero, so that a NaN shows."""
    return _rule(NOTHING)


def trim(ties: int, below: float, threshold: float) -> Rule:
    """Entries of magnitude above ``below`` among the first ``ties``, above ``threshold`` among the others."""
    return _rule(TRIM, ties, *(int(np.float32(one).view(np.uint32)) for one in (below, threshold)))


def drop(key: bytes, probability: float) -> Rule:
    """Entries times the draws of ``bernoulli(key, ..., probability)``, which is in (0, 1)."""
    words = [int.from_bytes(key[start : start + 8], "little") for start in range(0, 32, 8)]
    whole, fraction = divmod(probability * 256, 1)
    return _rule(DROP, words[0], words[1] | 1, words[2], words[3] | 1, int(whole), math.ceil(fraction * 2.0**53))


def _rule(*numbers: int) -> Rule:
    rule = everything()
    rule[: len(numbers)] = numbers
    return rule
