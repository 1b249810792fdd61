"""FP8 with one scale for a tensor or for each output channel: compressed-tensors, ModelOpt, fbgemm."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from svc_dist.checkpoint.dtype import torch_dtype
from svc_dist.checkpoint.formats.base import Stored
from svc_dist.checkpoint.formats.codecs import elements
from svc_dist.checkpoint.formats.codecs.codec import Codec, Part, Rule
from svc_dist.checkpoint.formats.codecs.fp8_block import fp8_block

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True)
class Fp8Scaled(Codec):
    """``weight = codes * scale``; ``scale_shape`` as stored: ``()`` or ``(1,)`` for one scale, ``(rows,)`` or
    ``(rows, 1)`` for one a row, ``(1, columns)`` for one a column."""

    scale_shape: tuple[int, ...] = ()
    scale: str = ".weight_scale"
    scale_dtype: str = "F32"
    codes: str = ".weight"

    @property
    def label(self) -> str:
        return f"FP8 by {'row' if self._by_row else 'column' if self._by_column else 'tensor'}"

    def _parts(self) -> tuple[Part, ...]:
        rows = 1 if self._by_row else 0
        return Part(self.codes, "F8_E4M3", self.shape), Part(self.scale, self.scale_dtype, self.scale_shape, rows)

    @property
    def efforts(self) -> tuple[float, float]:
        return 0.7, 1.0

    @property
    def of_the_whole(self) -> tuple[str, ...]:
        return () if self._by_row else (self.scale,)

    @property
    def _by_row(self) -> bool:
        return self.scale_shape in ((self.shape[0],), (self.shape[0], 1)) and self.scale_shape != (1,)

    @property
    def _by_column(self) -> bool:
        return not self._by_row and self.scale_shape == (1, self.shape[1]) and self.shape[1] > 1

    def largest(self, weight: Tensor) -> Tensor:
        return weight.abs().amax(0).float() if self._by_column else super().largest(weight)

    def of_rows(self, rows: int) -> Fp8Scaled:
        scales = (rows, *self.scale_shape[1:]) if self._by_row else self.scale_shape
        return replace(self, shape=(rows, self.shape[1]), scale_shape=scales)

    def whole(self, largest: Tensor, dtype: torch.dtype) -> dict[str, Tensor]:
        """``largest``: one number, or one for each column where the scales are."""
        return {
            self.scale: self._scale(largest.float(), dtype).view(self.scale_shape).to(torch_dtype(self.scale_dtype))
        }

    def decode(self, stored: Mapping[str, Tensor], skipped: int = 0) -> Tensor:
        values, factor = elements.e4m3_values(stored[self.codes], self._spread(stored[self.scale]))
        return values.mul_(factor)

    def _encode(self, weight: Tensor, whole: Mapping[str, Tensor]) -> dict[str, Tensor]:
        values = weight.float()
        if self._by_row:
            scale = self._scale(elements.largest(values), weight.dtype)
            stored = scale.view(-1, *self.scale_shape[1:]).to(torch_dtype(self.scale_dtype))
        else:
            stored = whole[self.scale]
        scaled = values / self._spread(stored)
        if self.rule == "compressed-tensors" or not self._by_row:
            scaled = scaled.to(weight.dtype).float()
        return {self.codes: elements.e4m3(scaled), self.scale: stored}

    def _spread(self, scale: Tensor) -> Tensor:
        return scale.float().view((1, -1) if self._by_column else (-1, 1))

    def _scale(self, largest: Tensor, dtype: torch.dtype) -> Tensor:
        import torch

        scale = largest / elements.E4M3_LARGEST
        if self.rule != "compressed-tensors":
            return scale.masked_fill(scale == 0, 1.0)
        scale = scale.to(dtype).float()
        return scale.masked_fill(scale == 0, torch.finfo(dtype).eps)


def fp8(stored: Stored) -> Codec:
    """The codec of E4M3 codes with scales for blocks, rows, columns or the whole. Raises DamagedInputError."""
    scale = next(iter(stored.beside))
    shape, scale_shape = stored.of_one(scale)
    if len(shape) != 2:
        raise stored.unreadable("codes of FP8 are no matrix")
    matrix = (shape[0], shape[1])
    wants_block = stored.scheme.block is not None or scale in (".weight_scale_inv", ".scale", "_scale_inv")
    by_block = fp8_block(stored, scale, matrix, scale_shape)
    if by_block is not None and (wants_block or math.prod(scale_shape) > 1):
        return by_block
    dtype = stored.beside[scale].dtype
    one_each = (matrix[0],), (matrix[0], 1), (1, matrix[1])
    if (math.prod(scale_shape) == 1 and len(scale_shape) < 3) or scale_shape in one_each:
        rule: Rule = "modelopt" if stored.scheme.method == "modelopt" or len(scale_shape) < 1 else "compressed-tensors"
        if dtype == "F32" and len(scale_shape) == 1 and matrix[0] > 1 and scale_shape != (1,):
            rule = "modelopt"
        return Fp8Scaled(matrix, rule, scale_shape, scale, dtype, stored.suffix)
    height, width = stored.scheme.block or (128, 128)
    grid = [-(-matrix[0] // height), -(-matrix[1] // width)]
    said = "weight_block_size in config.json" if stored.scheme.block else "the usual size, as config.json has none"
    raise stored.unreadable(
        f"the scales of FP8 codes are neither {grid}, for blocks of {height} x {width} ({said}), nor one for each row, "
        "each column, or all"
    )
