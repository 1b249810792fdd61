"""NVFP4: FP4 codes in groups of 16 with an E4M3 scale each, and one float32 scale above them.

compressed-tensors stores the upper scale as a divisor, ModelOpt as a factor: their names alone tell them apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from svc_dist.checkpoint.formats.base import Stored
from svc_dist.checkpoint.formats.codecs import elements
from svc_dist.checkpoint.formats.codecs.codec import Codec, Part, Rule, rounded

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_GROUP = 16
_TOP = elements.E2M1_LARGEST * elements.E4M3_LARGEST  # what one upper scale can reach: 2688
_SMALLEST = 2.0**-9  # E4M3's


@dataclass(frozen=True)
class Nvfp4(Codec):
    """``weight = code * (scale / upper)`` (compressed-tensors) or ``code * (scale * upper)`` (ModelOpt)."""

    codes: str = ".weight_packed"
    upper: str = ".weight_global_scale"
    scale: str = ".weight_scale"

    @property
    def label(self) -> str:
        return "NVFP4"

    def _parts(self) -> tuple[Part, ...]:
        rows, columns = self.shape
        upper = (1,) if self._divides else ()
        return (
            Part(self.codes, "U8", (rows, columns // 2)),
            Part(self.scale, "F8_E4M3", (rows, columns // _GROUP)),
            Part(self.upper, "F32", upper, 0),
        )

    @property
    def of_the_whole(self) -> tuple[str, ...]:
        return (self.upper,)

    def whole(self, largest: Tensor, dtype: torch.dtype) -> dict[str, Tensor]:
        largest = largest.float().view(1)
        if not self._divides:
            return {self.upper: (largest / _TOP).view(())}
        inverse = (1 / largest).to(dtype).float()
        return {self.upper: (inverse * _TOP).to(dtype).float().masked_fill(largest == 0, 1.0)}

    def fits(self, largest: Tensor, whole: Mapping[str, Tensor]) -> bool:
        """Whether no scale below this upper one would be larger than E4M3 holds."""
        upper, top = float(whole[self.upper]), float(largest)
        return top * upper <= _TOP if self._divides else top <= _TOP * upper

    @property
    def _divides(self) -> bool:
        return self.rule == "compressed-tensors"

    @property
    def efforts(self) -> tuple[float, float]:
        return 1.1, 2.4

    def decode(self, stored: Mapping[str, Tensor], skipped: int = 0) -> Tensor:
        codes = stored[self.codes]
        upper, scale = stored[self.upper].view(1, 1), stored[self.scale].float()
        scale = scale / upper if self._divides else scale * upper
        groups = elements.unpack_e2m1(codes).view(len(codes), -1, _GROUP)
        return groups.mul_(scale.unsqueeze(2)).view(len(codes), -1)

    def _encode(self, weight: Tensor, whole: Mapping[str, Tensor]) -> dict[str, Tensor]:
        stored = whole[self.upper]
        upper = stored.view(1, 1)
        groups = weight.float().reshape(len(weight), -1, _GROUP)
        top = elements.largest(groups)
        if self._divides:
            scale = elements.e4m3(upper * rounded(top / elements.E2M1_LARGEST, weight))
            each = _filled(scale.float(), 0.125)
            factor = each / upper
        else:
            each = _filled(top / (elements.E2M1_LARGEST * upper), 1.0).clamp(_SMALLEST, elements.E4M3_LARGEST)
            each = elements.e4m3(each).float()
            factor = each * upper
        scaled = (groups / factor.unsqueeze(2)).nan_to_num_(0.0).view(len(weight), -1)
        return {
            self.codes: elements.pack_e2m1(scaled, "even"),
            self.scale: elements.e4m3(each),
            self.upper: stored,
        }


def _filled(scale: Tensor, instead: float) -> Tensor:
    """Scales with ``instead`` for those of zeros."""
    return scale.nan_to_num(0.0).masked_fill(scale.nan_to_num(0.0) == 0, instead)


def nvfp4(stored: Stored) -> Nvfp4:
    """The codec of FP4 codes with E4M3 scales. Raises DamagedInputError."""
    divides = ".weight_global_scale" in stored.beside
    codes, scales = stored.of_one(".weight_scale")
    packed = 1 if stored.codes.dtype == "F4" else 2
    if len(codes) != 2 or len(scales) != 2 or codes[0] != scales[0] or codes[1] * packed != scales[1] * _GROUP:
        raise stored.unreadable("codes and scales of NVFP4 do not go together")
    upper = ".weight_global_scale" if divides else ".weight_scale_2"
    rule: Rule = "compressed-tensors" if divides else "modelopt"
    return Nvfp4((codes[0], codes[1] * packed), rule, stored.suffix, upper)
