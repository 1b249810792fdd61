"""Scales that a whole matrix decides, or several that engines run as one: kept where they serve, else computed anew."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from svc_dist.checkpoint.formats.codecs.codec import Codec
from svc_dist.run.results.encoding import Parts, Stored, encoded, largest_entries


@dataclass
class MergedWeight:
    """A weight in one result. ``unchanged``: of each block, whether it is what a model stores; None where none is.

    ``stored``: what that model stores, whose number is ``model``.
    """

    codec: Codec
    values: Tensor
    unchanged: Tensor | None
    stored: Stored | None
    model: int | None

    def __post_init__(self) -> None:
        self.largest = largest_entries(self.codec, self.values)
        self.wholes: list[Mapping[str, Tensor]] = []

    def kept(self, matrix: int) -> dict[str, Tensor] | None:
        """The stored parts ``of_the_whole`` of a matrix, where they serve the new values too."""
        if self.stored is None or self.unchanged is None:
            return None
        parts = self.stored(matrix, 0, min(self.codec.grain, self.codec.shape[0]))
        whole = {suffix: parts[suffix] for suffix in self.codec.of_the_whole}
        serves = bool(self._blocks(matrix).all()) or self.codec.fits(self.largest[matrix], whole)
        return whole if serves else None

    def renew(self, matrix: int, largest: Tensor) -> None:
        """Give a matrix new parts, for which none of its blocks is unchanged."""
        self.wholes.append(self.codec.whole(largest, self.values.dtype))
        if self.unchanged is not None:
            self._blocks(matrix).fill_(False)

    def encoded(self, device: str) -> Iterator[Parts]:
        """Rows of the stored tensors of all matrices, in order."""
        of = (self.codec, self.values, 0, device)
        return encoded(*of, self.stored, self.unchanged, self.wholes.__getitem__)

    def _blocks(self, matrix: int) -> Tensor:
        assert self.unchanged is not None
        count = -(-self.codec.shape[0] // self.codec.grain)
        return self.unchanged[matrix * count : (matrix + 1) * count]


def choose_wholes(weights: Sequence[MergedWeight]) -> None:
    """Give all matrices of these weights their parts ``of_the_whole``: what is new is the same for all of them."""
    for matrix in range(len(weights[0].largest)):
        kept = [one.kept(matrix) for one in weights]
        if _agree(weights, kept):
            for one, parts in zip(weights, kept, strict=True):
                one.wholes.append(parts or {})
        else:
            largest = torch.stack([one.largest[matrix] for one in weights]).amax(0)
            for one in weights:
                one.renew(matrix, largest)


def _agree(weights: Sequence[MergedWeight], kept: Sequence[Mapping[str, Tensor] | None]) -> bool:
    """Whether all can be kept: they are of one model, whatever that stores, or they are equal."""
    if any(parts is None for parts in kept):
        return False
    if len({one.model for one in weights}) == 1:
        return True
    first, *others = ([part.view(-1) for part in (parts or {}).values()] for parts in kept)
    return all(torch.equal(mine, its) for other in others for mine, its in zip(first, other, strict=True))
