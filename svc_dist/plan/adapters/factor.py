"""One of the two factors of what a merge adds to a tensor, as an adapter stores them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Side = Literal["a", "b"]
#: What PEFT makes of a pair: of a module with a matrix (also a convolution), of an embedding, of a parameter.
PairKind = Literal["module", "embedding", "parameter"]


@dataclass(frozen=True, slots=True)
class Factor:
    """``lora_A`` or ``lora_B`` of a tensor of the base: which matrices it is for, and how the merge makes it.

    ``shape``: of the base's tensor; ``matrices``: ``(count, rows, columns)`` of it as stored, ``count`` above 1 for the
    experts of a mixture; ``swapped``: stored ``(in, out)``, so that ``lora_A`` acts on the rows. ``exact``: the pair is
    all of the merged delta; else it is the best one of this ``rank``. ``blocks``: where the merged delta is a sum of
    the experts' own products, the rank of each: their factors are stacked.
    """

    side: Side
    kind: PairKind
    shape: tuple[int, ...]
    matrices: tuple[int, int, int]
    rank: int
    swapped: bool
    exact: bool
    blocks: tuple[int, ...] = ()

    @property
    def numel(self) -> int:
        """Elements of the base's tensor."""
        return math.prod(self.shape)

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """The shape of this factor in the adapter's file."""
        count, rows, columns = self.matrices
        inner, outer = (rows, columns) if self.swapped else (columns, rows)
        if self.side == "a":
            convolution = self.kind == "module" and len(self.shape) > 2
            return (self.rank, *self.shape[1:]) if convolution else (count * self.rank, inner)
        ones = (1,) * (len(self.shape) - 2) if self.kind == "module" else ()
        return (outer, count * self.rank, *ones)
