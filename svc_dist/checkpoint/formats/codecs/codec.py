"""What every codec can do: say how a quantised matrix is stored, read its rows, and write them."""

from __future__ import annotations

import dataclasses
import functools
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch
    from torch import Tensor

#: Entries that are handled at once on the CPU.
AT_ONCE = 1 << 18
#: The arithmetic by which the tools that write a format choose scales and codes.
Rule = Literal["deepgemm", "transformers", "compressed-tensors", "modelopt", "openai"]


@dataclass(frozen=True)
class Part:
    """One stored tensor of a quantised matrix. ``suffix``: what it appends to the stem of the name. ``rows``: how many
    of the matrix's rows lie in one of its own rows (at a border fewer), 0 where it has no rows of the matrix."""

    suffix: str
    dtype: str
    shape: tuple[int, ...]
    rows: int = 1

    def range(self, first: int, last: int) -> tuple[int, int]:
        """Its own rows that hold rows ``[first, last)`` of the matrix."""
        if self.rows == 0:
            return 0, self.shape[0] if self.shape else 1
        return first // self.rows, -(-last // self.rows)


@dataclass(frozen=True)
class Codec(ABC):
    """How one matrix of ``shape`` ``(rows, columns)`` is stored, and the arithmetic of its ``rule``.

    A *slab* is some rows of the matrix that begin a block: a multiple of ``grain``.
    """

    shape: tuple[int, int]
    rule: Rule

    @functools.cached_property
    def parts(self) -> tuple[Part, ...]:
        """The stored tensors, that of the codes first."""
        return self._parts()

    @abstractmethod
    def _parts(self) -> tuple[Part, ...]: ...

    @property
    @abstractmethod
    def label(self) -> str:
        """What users call it, such as ``FP8 in blocks of 128 x 128``."""

    @property
    def grain(self) -> int:
        """How many rows belong together."""
        return 1

    def of_rows(self, rows: int) -> Codec:
        """The codec of this many rows that begin a block."""
        return dataclasses.replace(self, shape=(rows, self.shape[1]))

    @property
    def turned(self) -> bool:
        """Whether the model has the transposes of these matrices: ``(in, out)`` where these are ``(out, in)``."""
        return False

    @property
    def efforts(self) -> tuple[float, float]:
        """How long decoding and encoding an entry takes, compared with FP8 blocks (benchmarks/quantised.py)."""
        return 1.0, 1.0

    @property
    def of_the_whole(self) -> tuple[str, ...]:
        """The suffixes of the parts that the largest entry of the whole matrix decides: slabs are encoded with them."""
        return ()

    def whole(self, largest: Tensor, dtype: torch.dtype) -> dict[str, Tensor]:
        """The parts ``of_the_whole`` for weights of ``dtype`` with this largest absolute entry (float32, one number).

        Of matrices that share an upper scale (q, k and v), the largest of all.
        """
        return {}

    def largest(self, weight: Tensor) -> Tensor:
        """Of some rows ``(rows, columns)``, what ``whole`` needs: the largest absolute entry (float32)."""
        return weight.abs().amax().float()

    def fits(self, largest: Tensor, whole: Mapping[str, Tensor]) -> bool:
        """Whether the parts ``of_the_whole`` of another matrix serve this one as well as its own would."""
        return False

    def takes(self, other: Codec) -> bool:
        """Whether what another codec stores of a matrix can stand in place of what this one would."""
        return dataclasses.replace(other, rule=self.rule) == self

    def damage(self, stored: Mapping[str, Tensor]) -> str | None:
        """What is wrong with the parts of a slab, beyond codes that are no numbers; None for nothing."""
        from svc_dist.checkpoint.formats.codecs.elements import are_scales

        for part in self.parts[1:]:
            if not are_scales(stored[part.suffix]):
                return f"its {part.suffix.lstrip('._')} holds NaN or infinity"
        return None

    @abstractmethod
    def decode(self, stored: Mapping[str, Tensor], skipped: int = 0) -> Tensor:
        """A slab as float32 ``(rows, columns)``, in fresh memory. ``stored``: its own rows of each part, by suffix.

        ``skipped``: how many rows of its first block precede it, so that rows may be decoded that begin no block.
        """

    def encode(self, weight: Tensor, whole: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """The parts of a slab ``(rows, columns)``, by suffix, with the parts ``of_the_whole`` as given.

        ``weight``: float32, or of the dtype in which the tools of the format round what they compute.
        """
        import torch

        step = len(weight)
        if weight.device.type == "cpu":
            step = max(AT_ONCE // (self.grain * self.shape[1]), 1) * self.grain
        pieces = [self._encode(weight[begin : begin + step], whole or {}) for begin in range(0, len(weight), step)]
        if len(pieces) == 1:
            return pieces[0]
        return {
            part.suffix: torch.cat([piece[part.suffix] for piece in pieces]) if part.rows else pieces[0][part.suffix]
            for part in self.parts
        }

    @abstractmethod
    def _encode(self, weight: Tensor, whole: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Some rows of what ``encode`` is given, about as many as are handled at once."""


def rounded(values: Tensor, like: Tensor) -> Tensor:
    """Float32 ``values`` rounded to the dtype in which a tool of the format computes for weights ``like`` these."""
    return values.to(like.dtype).float()


def grouped(rows: Tensor, group: int) -> Tensor:
    """``(rows, groups, group)``, the last group filled up with zeros."""
    import torch

    if fill := -rows.shape[1] % group:
        rows = torch.nn.functional.pad(rows, (0, fill))
    return rows.reshape(len(rows), -1, group)


def bands(matrix: Tensor, height: int, skipped: int = 0) -> Iterator[tuple[slice, slice, Tensor]]:
    """The rows of a matrix, of which bands of ``height`` have their scales in common: the first lacks ``skipped`` rows.

    In pieces: the numbers of bands, the rows, and a view of them as ``(bands, rows, columns)``. On the CPU arrays for a
    piece stay in the cache, and the C library keeps their memory.
    """
    rows, columns = matrix.shape
    at_once = AT_ONCE if matrix.device.type == "cpu" else matrix.numel()
    begin = 0
    while begin < rows:
        number, inside = divmod(skipped + begin, height)
        whole = 0 if inside else min(at_once // (height * columns), (rows - begin) // height)
        lines = whole * height or min(max(at_once // columns, 1), height - inside)
        piece = slice(begin, min(begin + lines, rows))
        count = max(whole, 1)
        yield slice(number, number + count), piece, matrix[piece].view(count, -1, columns)
        begin = piece.stop
