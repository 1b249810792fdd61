"""The element codes of quantised formats: FP8 E4M3, FP4 E2M1, E8M0 scales and packed integers.

torch is imported by the functions: planning needs the formats' shapes, not their arithmetic.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor

#: Where a value lies exactly between two FP4 codes: the even one, the one away from zero, or the one towards it.
Ties = Literal["even", "away", "zero"]

E4M3_LARGEST, E2M1_LARGEST = 448.0, 6.0
_E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
_BORDERS = (0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0)  # between neighbouring codes
_EVEN_UP = (False, True, False, True, False, True, False)  # whether the even code of a border is the upper one
_BIAS = 127  # of E8M0 and of float32


def e4m3(values: Tensor) -> Tensor:
    """``values`` rounded to E4M3, ties to even; larger ones than 448 become 448 in every version of torch."""
    import torch

    return values.clamp(-E4M3_LARGEST, E4M3_LARGEST).to(torch.float8_e4m3fn)


def e8m0(codes: Tensor) -> Tensor:
    """The float32 values of E8M0 codes (bytes or F8_E8M0): ``2^(code - 127)``, NaN for 255."""
    import torch

    codes = codes.view(torch.uint8).to(torch.int32)
    bits = (codes << 23) | (codes == 0).to(torch.int32) << 22  # 2^-127 is subnormal in float32
    return torch.where(codes == 255, torch.nan, bits.view(torch.float32))


def are_scales(values: Tensor) -> bool:
    """Whether none of these scales (bytes and F8_E8M0: powers of two) is NaN or infinite; whole numbers never are."""
    import torch

    if values.dtype in (torch.uint8, torch.float8_e8m0fnu):
        return not bool((values.view(torch.uint8) == 255).any())
    if not values.is_floating_point():
        return True
    return bool((values.float() if values.element_size() == 1 else values).isfinite().all())


def exponents(values: Tensor) -> Tensor:
    """The biased exponents (int32) of positive float32 values: of those that are no power of two, rounded down."""
    import torch

    return values.view(torch.int32) >> 23


def power_of_two_from(values: Tensor) -> Tensor:
    """The E8M0 codes (uint8) of the smallest powers of two that are no less than these positive float32 values."""
    import torch

    return ((values.view(torch.int32) + 0x7FFFFF) >> 23).clamp(0, 254).to(torch.uint8)


def unpack_e2m1(packed: Tensor) -> Tensor:
    """The float32 values of FP4 codes, two in a byte, the first in the lower half: ``(..., n)`` to ``(..., 2 n)``."""
    import torch

    table = torch.tensor([*_E2M1, *(-value for value in _E2M1)], device=packed.device)
    codes = packed.view(torch.uint8)
    both = torch.stack((codes & 15, codes >> 4), dim=-1).flatten(-2)
    return table[both.to(torch.int32)]


def pack_e2m1(values: Tensor, ties: Ties, zeros: Literal["signed", "positive", "negative"] = "signed") -> Tensor:
    """Float32 ``values`` as FP4 codes, two in a byte, saturating at 6: ``(..., 2 n)`` to ``(..., n)``.

    ``zeros``: how zeros are stored: those of a negative number with its sign; all with none; exact ones as -0.
    """
    import torch

    size = values.abs()
    codes = torch.zeros(values.shape, dtype=torch.uint8, device=values.device)
    for border, up in zip(_BORDERS, _EVEN_UP, strict=True):
        above = size >= border if ties == "away" or (ties == "even" and up) else size > border
        codes += above.to(torch.uint8)
    negative = torch.signbit(values)
    if zeros == "positive":
        negative &= codes != 0
    elif zeros == "negative":
        negative |= values == 0
    codes |= negative.to(torch.uint8) << 3
    return codes[..., 0::2] | codes[..., 1::2] << 4


def unpack_integers(words: Tensor, bits: int, count: int) -> Tensor:
    """``count`` unsigned integers (int32) from each row of little-endian int32 words, the lowest bits first."""
    import torch

    wide = words.to(torch.int64) & 0xFFFFFFFF
    at = torch.arange(count, device=words.device) * bits
    word, shift = at // 32, at % 32
    low = wide[..., word] >> shift
    if 32 % bits:  # codes that cross a border between words
        following = torch.nn.functional.pad(wide, (0, 1))[..., word + 1]
        low |= following << (32 - shift)
    return (low & ((1 << bits) - 1)).to(torch.int32)


def pack_integers(codes: Tensor, bits: int) -> Tensor:
    """The inverse of ``unpack_integers``: ``(..., count)`` to ``(..., ceil(count * bits / 32))`` words."""
    import torch

    count = codes.shape[-1]
    words = torch.zeros((*codes.shape[:-1], -(-count * bits // 32) + 1), dtype=torch.int64, device=codes.device)
    at = torch.arange(count, device=codes.device) * bits
    word, shift = at // 32, at % 32
    wide = codes.to(torch.int64) << shift
    words.index_add_(-1, word, wide & 0xFFFFFFFF)  # no two codes share a bit
    words.index_add_(-1, word + 1, wide >> 32)
    signed = torch.where(words >= 1 << 31, words - (1 << 32), words)
    return signed[..., :-1].to(torch.int32)
