"""Packed integers of compressed-tensors (``pack-quantized``): INT4 of Kimi-K2-Thinking, INT8 and other widths.

Codes lie in int32 words, the lowest bits first, with an offset of half their range; zero points are packed along rows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from svc_dist.checkpoint.dtype import torch_dtype
from svc_dist.checkpoint.formats.base import Stored
from svc_dist.checkpoint.formats.codecs import elements
from svc_dist.checkpoint.formats.codecs.codec import Codec, Part, grouped, rounded

if TYPE_CHECKING:
    from torch import Tensor

_CODES, _SCALE, _SHAPE = ".weight_packed", ".weight_scale", ".weight_shape"
_ZERO = ".weight_zero_point"


@dataclass(frozen=True)
class PackedIntegers(Codec):
    """``weight = (code - zero point) * scale`` with a scale for each ``group`` of entries of a row.

    ``zero_points``: whether the zero is stored (asymmetric). ``symmetric_range``: codes up to ``+-(2^(bits-1) - 1)``,
    by which encoding gives back what was decoded; the tools of the format divide by half a code more.
    """

    bits: int = 4
    group: int = 32
    scale_dtype: str = "BF16"
    shape_dtype: str = "I64"
    zero_points: bool = False
    symmetric_range: bool = False

    @property
    def label(self) -> str:
        return f"INT{self.bits} in groups of {self.group}"

    def _parts(self) -> tuple[Part, ...]:
        rows, columns = self.shape
        groups = -(-columns // self.group)
        stored = [
            Part(_CODES, "I32", (rows, -(-columns * self.bits // 32))),
            Part(_SCALE, self.scale_dtype, (rows, groups)),
            Part(_SHAPE, self.shape_dtype, (2,), 0),
        ]
        if self.zero_points:
            stored.append(Part(_ZERO, "I32", (-(-rows * self.bits // 32), groups), self.grain))
        return tuple(stored)

    def needs_shape(self, words: int) -> bool:
        """Whether rows of so many words may end in unused bits, so that ``weight_shape`` must tell the columns."""
        return self.group >= self.shape[1] and self.shape[1] == words * 32 // self.bits

    @property
    def grain(self) -> int:
        return 32 // math.gcd(32, self.bits) if self.zero_points else 1

    def takes(self, other: Codec) -> bool:
        if not isinstance(other, PackedIntegers):
            return False
        return replace(other, rule=self.rule, symmetric_range=self.symmetric_range) == self

    @property
    def efforts(self) -> tuple[float, float]:
        return (1.2, 2.2) if self.zero_points else (0.9, 1.5)

    def damage(self, stored: Mapping[str, Tensor]) -> str | None:
        held = stored[_SHAPE].tolist()
        if held != [*self.shape]:
            return f"its weight_shape is {held}, but codes and scales are {[*self.shape]}"
        return super().damage(stored)

    def decode(self, stored: Mapping[str, Tensor], skipped: int = 0) -> Tensor:
        rows, columns = len(stored[_CODES]), self.shape[1]
        offset = 1 << (self.bits - 1)
        values = grouped(elements.unpack_integers(stored[_CODES], self.bits, columns, offset), self.group)
        if self.zero_points:
            packed = stored[_ZERO].T.contiguous()
            zero = elements.unpack_integers(packed, self.bits, skipped + rows, offset)[:, skipped:].T
            values.sub_(zero.unsqueeze(2))
        values.mul_(stored[_SCALE].float().unsqueeze(2))
        return values.view(rows, -1)[:, :columns].contiguous()

    def _encode(self, weight: Tensor, whole: Mapping[str, Tensor]) -> dict[str, Tensor]:
        import torch

        low, high = -(1 << (self.bits - 1)), (1 << (self.bits - 1)) - 1
        groups = grouped(weight.float(), self.group)
        zero = None
        if self.zero_points:
            bottom, top = groups.amin(2).clamp(max=0), groups.amax(2).clamp(min=0)
            scale = rounded(rounded(top - bottom, weight) / (high - low), weight)
            scale = scale.masked_fill(scale == 0, torch.finfo(weight.dtype).eps)
            zero = rounded(low - rounded(bottom / scale, weight), weight).round().clamp(low, high)
            zero = zero.masked_fill(bottom == top, 0.0)
        else:
            divisor = high if self.symmetric_range else (high - low) / 2
            scale = rounded(elements.largest(groups) / divisor, weight)
            scale = scale.masked_fill(scale == 0, torch.finfo(weight.dtype).eps)
        codes = rounded(groups / scale.unsqueeze(2), weight)
        if zero is not None:
            codes = rounded(codes + zero.unsqueeze(2), weight)
        codes = codes.round_().clamp_(low, high).sub_(low).to(torch.uint8).view(len(weight), -1)[:, : self.shape[1]]
        encoded = {
            _CODES: elements.pack_integers(codes, self.bits),
            _SCALE: scale.to(torch_dtype(self.scale_dtype)),
            _SHAPE: torch.tensor(self.shape, dtype=torch_dtype(self.shape_dtype)),
        }
        if zero is not None:
            packed = elements.pack_integers((zero.T - low).to(torch.uint8).contiguous(), self.bits)
            encoded[_ZERO] = packed.T.contiguous()
        return encoded


def packed_integers(stored: Stored) -> PackedIntegers:
    """The codec of packed integers. Raises DamagedInputError."""
    codes, scales = stored.of_one(_SCALE)
    bits = stored.scheme.bits or 4
    if len(codes) != 2 or len(scales) != 2 or codes[0] != scales[0] or not 2 <= bits <= 8 or not scales[1]:
        raise stored.unreadable("codes and scales of packed integers do not go together")
    columns = codes[1] * 32 // bits
    group = stored.scheme.group or -(-columns // scales[1])
    columns = scales[1] * group if scales[1] > 1 or stored.scheme.group else columns
    if -(-columns * bits // 32) != codes[1]:
        raise stored.unreadable(f"the words do not hold groups of {group} codes of {bits} bits")
    if _ZERO in stored.beside and 32 % bits:
        raise stored.unreadable(f"zero points of {bits} bits cross the borders of words")
    dtypes = (stored.beside[_SCALE].dtype, stored.beside[_SHAPE].dtype)
    return PackedIntegers((codes[0], columns), "compressed-tensors", bits, group, *dtypes, _ZERO in stored.beside)
