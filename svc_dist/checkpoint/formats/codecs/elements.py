"""The element codes of quantised formats: FP8 E4M3, FP4 E2M1, E8M0 scales and packed integers.

torch is imported by the functions: planning needs the formats' shapes, not their arithmetic.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch
    from torch import Tensor

#: Where a value lies exactly between two FP4 codes: the even one, the one away from zero, or the one towards it.
Ties = Literal["even", "away", "zero"]

E4M3_LARGEST, E2M1_LARGEST = 448.0, 6.0
_E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)

_REBIAS = 256.0  # 2^8: the exponents of float16 are biased by 8 more than those of E4M3
_NAN = 0x7F  # of E4M3, without the sign
#: Added to a float32 number from 0 to 6, these round it to halves, to whole and to even numbers. The lowest byte of the
#: sum is then the FP4 code where the codes lie so far apart, and larger than the code elsewhere.
_ROUNDING = (2.0**22, 2.0**23 + 2, 2.0**24 + 8)


def e4m3(values: Tensor) -> Tensor:
    """``values`` rounded to E4M3, ties to even; larger ones than 448 become 448 in every version of torch."""
    import torch

    return values.clamp(-E4M3_LARGEST, E4M3_LARGEST).to(torch.float8_e4m3fn)


def e4m3_values(codes: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Float32 values and factors whose products are those of E4M3 ``codes`` and ``scale`` (float32), bit for bit."""
    import torch

    if codes.numel() and (
        int((codes.view(torch.uint8) & _NAN).amax()) == _NAN
        or not float(scale.abs().amax()) < torch.finfo(torch.float32).max / _REBIAS
    ):
        return codes.to(torch.float32, memory_format=torch.contiguous_format), scale
    # The bits of a code are those of a float16 number 2^8 times smaller: torch's own cast takes ten times as long.
    bits = codes.view(torch.int8).to(torch.int16, memory_format=torch.contiguous_format)
    bits = bits.bitwise_left_shift_(7).bitwise_and_(-0x4080)
    return bits.view(torch.float16).float(), scale * _REBIAS


def largest(groups: Tensor) -> Tensor:
    """The largest size of the float32 numbers in each group ``(..., group)``; NaN where there is one."""
    import torch

    return groups.abs().view(torch.int32).amax(-1).view(torch.float32)


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
    return _looked_up(packed, (*_E2M1, *(-value for value in _E2M1)))


def pack_e2m1(values: Tensor, ties: Ties, zeros: Literal["signed", "positive", "negative"] = "signed") -> Tensor:
    """Float32 ``values`` as FP4 codes, two in a byte, saturating at 6: ``(..., 2 n)`` to ``(..., n)``.

    ``zeros``: how zeros are stored: those of a negative number with its sign; all with none; exact ones as -0.
    """
    import torch

    size = values.abs().clamp_(max=E2M1_LARGEST)
    # A number halfway between two codes ends in zeros. A 1 as the last bit moves it, and no other, past the border.
    if ties == "away":
        size.view(torch.int32).bitwise_or_(1)
    elif ties == "zero":
        size.clamp_(min=torch.finfo(torch.float32).tiny).view(torch.int32).sub_(1).bitwise_or_(1)
    sums, codes = torch.empty_like(size), None
    for rounding in _ROUNDING:
        code = torch.add(size, rounding, out=sums).view(torch.int32).to(torch.uint8)
        codes = code if codes is None else torch.minimum(codes, code, out=codes)
    assert codes is not None
    bits = values.view(torch.int32)
    if zeros == "negative":
        bits = (bits - 1).bitwise_or_(bits)
    signs = torch.bitwise_right_shift(bits, 28, out=sums.view(torch.int32)).to(torch.uint8).bitwise_and_(8)
    if zeros == "positive":
        signs &= codes + 7  # has this bit for all codes but zero
    return _pairs(codes.bitwise_or_(signs))


def unpack_integers(words: Tensor, bits: int, count: int, offset: int = 0) -> Tensor:
    """``count`` unsigned integers, less ``offset``, from each row of little-endian int32 words, the lowest bits first.

    As float32 numbers.
    """
    import torch

    if bits == 4:
        return _looked_up(_seen_as(words, torch.uint8), tuple(float(code - offset) for code in range(16)))[..., :count]
    if bits == 8:
        return _seen_as(words, torch.uint8)[..., :count].float().sub_(offset)
    wide = words.to(torch.int64) & 0xFFFFFFFF
    at = torch.arange(count, device=words.device) * bits
    word, shift = at // 32, at % 32
    low = wide[..., word] >> shift
    if 32 % bits:  # codes that cross a border between words
        following = torch.nn.functional.pad(wide, (0, 1))[..., word + 1]
        low |= following << (32 - shift)
    return (low & ((1 << bits) - 1)).float().sub_(offset)


def pack_integers(codes: Tensor, bits: int) -> Tensor:
    """The words of unsigned integers (uint8): ``(..., count)`` to ``(..., ceil(count * bits / 32))``."""
    import torch

    count = codes.shape[-1]
    if bits in (4, 8):
        if fill := -count % (32 // bits):
            codes = torch.nn.functional.pad(codes, (0, fill))
        return _seen_as(_pairs(codes) if bits == 4 else codes, torch.int32)
    words = torch.zeros((*codes.shape[:-1], -(-count * bits // 32) + 1), dtype=torch.int64, device=codes.device)
    at = torch.arange(count, device=codes.device) * bits
    word, shift = at // 32, at % 32
    wide = codes.to(torch.int64) << shift
    words.index_add_(-1, word, wide & 0xFFFFFFFF)  # no two codes share a bit
    words.index_add_(-1, word + 1, wide >> 32)
    signed = torch.where(words >= 1 << 31, words - (1 << 32), words)
    return signed[..., :-1].to(torch.int32)


def _seen_as(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """The bytes of the last dimension as numbers of another dtype."""
    import torch

    flat = tensor.reshape(-1)
    if flat.stride(0) != 1:
        flat = torch.empty(flat.shape, dtype=flat.dtype, device=flat.device).copy_(flat)
    return flat.view(dtype).view(*tensor.shape[:-1], -1)


def _looked_up(packed: Tensor, values: tuple[float, ...]) -> Tensor:
    """The values of codes of four bits, two in a byte, in one look-up a byte: ``(..., n)`` to ``(..., 2 n)``."""
    import torch

    codes = packed.view(torch.uint8)
    both = _table(values, codes.device).index_select(0, codes.to(torch.int32).reshape(-1))
    return both.view(torch.float32).view(*codes.shape[:-1], 2 * codes.shape[-1])


@functools.lru_cache(maxsize=64)
def _table(values: tuple[float, ...], device: torch.device) -> Tensor:
    """For each byte the two float32 values of its halves, as one number of 64 bits."""
    import torch

    pairs = [(values[byte & 15], values[byte >> 4]) for byte in range(256)]
    return torch.tensor(pairs, device=device).view(torch.int64).view(-1)


def _pairs(codes: Tensor) -> Tensor:
    """Codes of four bits (uint8), two in a byte: ``(..., 2 n)`` to ``(..., n)``."""
    import torch

    both = _seen_as(codes, torch.int16)
    return (both | both >> 4).to(torch.uint8)
