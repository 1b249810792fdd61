"""Which experts are alike: their order by similarity, and pairs that nearly coincide."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from svc_dist.report.diagnosis import Array, Diagnosis

COINCIDE = 0.9  # cosine from which on two experts are nearly one


@dataclass(frozen=True)
class Pair:
    """Two experts by number, and the cosine of their deltas."""

    first: int
    second: int
    cosine: float


def closest(cosines: Array) -> list[Pair]:
    """All pairs, the most alike first."""
    rows, columns = np.triu_indices(len(cosines), 1)
    pairs = [Pair(int(i), int(j), float(cosines[i, j])) for i, j in zip(rows, columns, strict=True)]
    return sorted(pairs, key=lambda pair: -pair.cosine)


def order(cosines: Array) -> list[int]:
    """Experts in an order in which like ones are neighbours: from the closest pair, the chain grows at either end."""
    if len(cosines) < 2:
        return list(range(len(cosines)))
    first = closest(cosines)[0]
    chain, left = [first.first, first.second], set(range(len(cosines))) - {first.first, first.second}
    while left:
        ends = [(float(cosines[chain[end], other]), end, -other) for end in (0, -1) for other in left]
        _, end, other = max(ends)
        chain.insert(0, -other) if end == 0 else chain.append(-other)
        left.remove(-other)
    return chain


def coinciding(diagnosis: Diagnosis) -> Pair | None:
    """The two experts that are the most alike, where they nearly coincide. ``first`` is the one to leave out: without
    it the others are counted less often."""
    pairs = closest(diagnosis.overlap(diagnosis.compared))
    if not pairs or pairs[0].cosine < COINCIDE:
        return None
    pair, without = pairs[0], diagnosis.times_without()
    leave_first = without[pair.first] < without[pair.second]
    return pair if leave_first else Pair(pair.second, pair.first, pair.cosine)
