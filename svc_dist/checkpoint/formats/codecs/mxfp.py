"""Microscaling: FP4 or FP8 codes in groups of 32 along a row, with a power of two (E8M0) for each group.

gpt-oss, compressed-tensors, ModelOpt, MiniMax-M3 and the experts of DeepSeek-V4 store it under different names, choose
the power by different rules, and break ties differently.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from svc_dist.checkpoint.dtype import torch_dtype
from svc_dist.checkpoint.formats.base import Stored
from svc_dist.checkpoint.formats.codecs import elements
from svc_dist.checkpoint.formats.codecs.codec import Codec, Part, Rule, rounded

if TYPE_CHECKING:
    from torch import Tensor

_GROUP = 32
_FLOOR = 1e-4  # of the largest entry of a group, in DeepGEMM


@dataclass(frozen=True)
class Mxfp(Codec):
    """``weight = code * 2^(scale - 127)`` with a scale for each 32 entries of a row.

    ``bits``: 4 or 8. ``codes_dtype``, ``scale_dtype``: as stored. ``blocked``: codes lie as ``(rows, groups, 16)``.
    """

    bits: int = 4
    codes: str = ".weight_packed"
    scale: str = ".weight_scale"
    codes_dtype: str = "U8"
    scale_dtype: str = "U8"
    blocked: bool = False

    @property
    def label(self) -> str:
        return f"MXFP{self.bits}"

    def _parts(self) -> tuple[Part, ...]:
        rows, columns = self.shape
        groups = columns // _GROUP
        packed = (rows, columns if self.bits == 8 or self.codes_dtype == "F4" else columns // 2)
        stored = (rows, groups, _GROUP // 2) if self.blocked else packed
        return Part(self.codes, self.codes_dtype, stored), Part(self.scale, self.scale_dtype, (rows, groups))

    @property
    def turned(self) -> bool:
        return self.blocked  # gpt-oss

    @property
    def efforts(self) -> tuple[float, float]:
        return (1.1, 2.2) if self.bits == 4 else (1.1, 1.4)

    def decode(self, stored: Mapping[str, Tensor], skipped: int = 0) -> Tensor:
        codes, scale = stored[self.codes], elements.e8m0(stored[self.scale])
        rows = len(codes)
        if self.bits == 8:
            values, scale = elements.e4m3_values(codes, scale)
        else:
            values = elements.unpack_e2m1(codes.reshape(rows, -1))
        return values.view(rows, -1, _GROUP).mul_(scale.view(rows, -1, 1)).view(rows, -1)

    def _encode(self, weight: Tensor, whole: Mapping[str, Tensor]) -> dict[str, Tensor]:
        import torch

        rows = len(weight)
        groups = weight.float().reshape(rows, -1, _GROUP)
        exponent = self._exponents(elements.largest(groups))
        scaled = groups / elements.e8m0(exponent).unsqueeze(2)
        if self.rule == "compressed-tensors":
            scaled = rounded(scaled, weight)
        scaled = scaled.nan_to_num_(0.0).view(rows, -1)
        if self.bits == 8:
            codes = elements.e4m3(scaled)
        elif self.rule == "openai":
            codes = elements.pack_e2m1(scaled, "away")
        elif self.rule == "modelopt":
            codes = elements.pack_e2m1(scaled, "zero", "negative")
        elif self.rule == "deepgemm":
            codes = elements.pack_e2m1(scaled, "zero", "positive")
        else:
            codes = elements.pack_e2m1(scaled, "even")
        if self.blocked:
            codes = codes.view(rows, -1, _GROUP // 2)
        if self.bits == 4 and self.codes_dtype != "U8":
            codes = codes.view(torch_dtype(self.codes_dtype))
        return {
            self.codes: codes,
            self.scale: exponent if self.scale_dtype == "U8" else exponent.view(torch.float8_e8m0fnu),
        }

    def _exponents(self, top: Tensor) -> Tensor:
        """The E8M0 codes of groups with these largest entries."""
        import torch

        largest = elements.E2M1_LARGEST if self.bits == 4 else elements.E4M3_LARGEST
        if self.rule == "compressed-tensors":  # a power up where the mantissa is 1.75 or more
            raised = (top.view(torch.int32) + (1 << 21)).view(torch.float32)
            exponent = elements.exponents(raised) - (2 if self.bits == 4 else 8)
            return exponent.masked_fill(top == 0, 0).clamp(0, 254).to(torch.uint8)
        if self.rule == "deepgemm":
            top = top.clamp(min=_FLOOR)
        return elements.power_of_two_from(top / largest)


def mxfp4(stored: Stored) -> Mxfp:
    """The codec of FP4 codes with powers of two, as compressed-tensors, ModelOpt and DeepSeek-V4 store them."""
    scale = next(iter(stored.beside))
    rule: Rule = "compressed-tensors"
    if scale == ".scale":
        rule = "deepgemm"
    elif stored.scheme.method == "modelopt" or (not stored.scheme.method and stored.suffix == ".weight"):
        rule = "modelopt"
    whole = stored.codes.dtype == "F4"
    return _mxfp(stored, scale, 4, rule, 1 if whole else 2)


def mxfp8(stored: Stored) -> Mxfp:
    """The codec of FP8 codes with powers of two."""
    rule: Rule = "modelopt" if stored.scheme.method == "modelopt" else "compressed-tensors"
    return _mxfp(stored, next(iter(stored.beside)), 8, rule, 1)


def mxfp4_of_gpt_oss(stored: Stored) -> Mxfp:
    """The codec of gpt-oss: codes as ``(experts, rows, groups, 16)``."""
    *_, rows, groups, half = stored.codes.shape if len(stored.codes.shape) == 4 else (0, 0, 0)
    scale = stored.beside["_scales"]
    if half * 2 != _GROUP or scale.shape != stored.codes.shape[:3]:
        raise stored.unreadable("codes and scales of MXFP4 do not go together")
    return Mxfp((rows, groups * _GROUP), "openai", 4, "_blocks", "_scales", blocked=True)


def _mxfp(stored: Stored, scale: str, bits: int, rule: Rule, packed: int) -> Mxfp:
    codes, scales = stored.of_one(scale)
    if len(codes) != 2 or len(scales) != 2 or codes[0] != scales[0] or codes[1] * packed != scales[1] * _GROUP:
        raise stored.unreadable(f"codes and scales of MXFP{bits} do not go together")
    dtypes = (stored.codes.dtype, stored.beside[scale].dtype)
    return Mxfp((codes[0], codes[1] * packed), rule, bits, stored.suffix, scale, *dtypes)
