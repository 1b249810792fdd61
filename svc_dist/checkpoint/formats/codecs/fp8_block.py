"""FP8 in blocks: E4M3 codes with a scale for every block, as DeepSeek-V3, Kimi-K2, Qwen3 and MiniMax ship.

The scale is a factor, whatever its name says. Edge blocks are cut, not filled.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from svc_dist.checkpoint.dtype import torch_dtype
from svc_dist.checkpoint.formats.base import Stored
from svc_dist.checkpoint.formats.codecs import elements
from svc_dist.checkpoint.formats.codecs.codec import Codec, Part, Rule, bands, grouped, rounded

if TYPE_CHECKING:
    from torch import Tensor

_FLOOR = 1e-4  # of the largest entry of a block, in DeepGEMM


@dataclass(frozen=True)
class Fp8Block(Codec):
    """``weight = codes * scale`` with a scale of ``scale_dtype`` for each ``block`` of ``(rows, columns)``.

    ``powers``: scales are powers of two (``scale_fmt: ue8m0``), whatever their dtype. ``scale_shape``: as stored, where
    it is not the grid of blocks.
    """

    block: tuple[int, int] = (128, 128)
    scale: str = ".weight_scale_inv"
    scale_dtype: str = "F32"
    powers: bool = False
    codes: str = ".weight"
    scale_shape: tuple[int, ...] | None = None

    @property
    def label(self) -> str:
        return f"FP8 in blocks of {self.block[0]} x {self.block[1]}"

    def _parts(self) -> tuple[Part, ...]:
        (rows, columns), (height, width) = self.shape, self.block
        grid = (-(-rows // height), -(-columns // width))
        stored = grid if self.scale_shape is None else self.scale_shape
        return Part(self.codes, "F8_E4M3", self.shape), Part(self.scale, self.scale_dtype, stored, height)

    @property
    def grain(self) -> int:
        return self.block[0]

    def takes(self, other: Codec) -> bool:
        if not isinstance(other, Fp8Block) or (self.powers and not other.powers):
            return False
        return replace(other, rule=self.rule, powers=self.powers) == self

    def of_rows(self, rows: int) -> Fp8Block:
        scales = self.scale_shape and (-(-rows // self.block[0]), *self.scale_shape[1:])
        return replace(self, shape=(rows, self.shape[1]), scale_shape=scales)

    def decode(self, stored: Mapping[str, Tensor], skipped: int = 0) -> Tensor:
        codes, scale = stored[self.codes], stored[self.scale]
        factor = elements.e8m0(scale) if self.scale_dtype == "F8_E8M0" else scale.float()
        factor = factor.reshape(-1, -(-self.shape[1] // self.block[1]))
        values, factor = elements.e4m3_values(codes, factor)
        factor = self._along_columns(factor)
        for numbers, _, rows in bands(values, self.block[0], skipped):
            rows.mul_(factor[numbers])
        return values

    def _encode(self, weight: Tensor, whole: Mapping[str, Tensor]) -> dict[str, Tensor]:
        import torch

        height, width = self.block
        tops = torch.zeros(-(-len(weight) // height), self.shape[1], device=weight.device)
        for numbers, _, rows in bands(weight, height):
            rows = rows.float()
            tops[numbers] = torch.maximum(tops[numbers], torch.maximum(rows.amax(1), -rows.amin(1)))
        scale, factor, divides = self._scales(elements.largest(grouped(tops, width)), weight)
        factor = self._along_columns(factor)
        codes = torch.empty(weight.shape, dtype=torch.float8_e4m3fn, device=weight.device)
        for numbers, piece, rows in bands(weight, height):
            scaled = rows.float() / factor[numbers] if divides else rows.float() * factor[numbers]
            if self.rule == "compressed-tensors":
                scaled = rounded(scaled, weight)
            codes[piece] = elements.e4m3(scaled.reshape(-1, self.shape[1]))
        if self.scale_shape is not None:
            scale = scale.view(*([-1] if self.scale_shape else []), *self.scale_shape[1:])
        return {self.codes: codes, self.scale: scale}

    def _along_columns(self, factor: Tensor) -> Tensor:
        """``(R, C)`` factors of blocks as ``(R, 1, columns)``, each with the rows of its band to share."""
        return factor.repeat_interleave(self.block[1], 1)[:, : self.shape[1]].unsqueeze(1)

    def _scales(self, top: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, bool]:
        """The stored scales of blocks with these largest entries, the number by which entries become codes, and whether
        they are divided by it."""
        largest = elements.E4M3_LARGEST
        if self.powers:
            return self._powers_of_two(top)
        if self.rule == "compressed-tensors":
            scale = rounded(top / largest, weight)
            scale = scale.masked_fill(scale == 0, _epsilon(weight))
            return scale.to(torch_dtype(self.scale_dtype)), scale, True
        if self.rule == "transformers":
            factor = (1 / top * largest).masked_fill(top == 0, 1.0)
            return (1 / factor).to(torch_dtype(self.scale_dtype)), factor, False
        scale = top.clamp(min=_FLOOR) / largest
        if self.scale_dtype != "F32":  # of the rounded scale, so that decoding undoes what encoding did
            stored = scale.to(torch_dtype(self.scale_dtype))
            return stored, stored.float(), True
        return scale, 1 / scale, False

    def _powers_of_two(self, top: Tensor) -> tuple[Tensor, Tensor, bool]:
        largest = elements.E4M3_LARGEST
        if self.rule == "transformers":
            factor = (1 / top * largest).masked_fill(top == 0, 1.0)
            scale = (1 / factor).log2().ceil().exp2()
        else:
            scale = elements.e8m0(elements.power_of_two_from(top.clamp(min=_FLOOR) / largest).clamp(min=1))
        stored = scale.to(torch_dtype(self.scale_dtype))  # exact, also in E8M0
        return stored, 1 / scale, False


def _epsilon(weight: Tensor) -> float:
    """What compressed-tensors stores as the scale of zeros."""
    import torch

    return torch.finfo(weight.dtype).eps


def fp8_block(stored: Stored, scale: str, shape: tuple[int, int], scale_shape: tuple[int, ...]) -> Fp8Block | None:
    """The codec of codes with a scale for each block; None where the scales are no such grid."""
    scheme = stored.scheme
    block = scheme.block or (128, 128)
    grid = (-(-shape[0] // block[0]), -(-shape[1] // block[1]))
    spread_out = (grid[0], 1, grid[1], 1)
    if scale_shape not in (grid, spread_out):
        return None
    dtype = stored.beside[scale].dtype
    rule: Rule = "deepgemm"
    if scheme.method in ("compressed-tensors", "modelopt"):
        rule = "compressed-tensors" if scheme.method == "compressed-tensors" else "deepgemm"
    elif scale == ".weight_scale":
        rule = "compressed-tensors"
    elif scheme.scale_format == "float" or scale == "_scale_inv" or (scale != ".scale" and dtype == "F8_E8M0"):
        rule = "transformers"
    powers = scheme.powers or dtype == "F8_E8M0"
    return Fp8Block(
        shape, rule, block, scale, dtype, powers, stored.suffix, None if scale_shape == grid else scale_shape
    )
