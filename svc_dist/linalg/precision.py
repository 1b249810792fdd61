"""The three levels of precision, and the dtypes that they compute in. Importing this loads no torch."""

from __future__ import annotations

import functools
from enum import StrEnum
from typing import TYPE_CHECKING

from svc_dist.errors import require_choice

if TYPE_CHECKING:
    import torch


class Precision(StrEnum):
    """A level of precision, as recipes, plans and commands name it."""

    MIXED = "mixed"
    """Eigendecompositions, and Gram matrices that stand for a squared spectrum, in float64; other products in float32.

    The default: more accurate than a full SVD in float32.
    """
    FAST = "fast"
    """Like ``mixed``, with products that only yield coefficients in bfloat16 where the device has it."""
    FLOAT64 = "float64"
    """Everything in float64."""

    @classmethod
    def of(cls, value: str) -> Precision:
        """The level with this name. Raises RecipeError naming the levels."""
        require_choice("precision", value, cls)
        return cls(value)


def compute_dtype(precision: str) -> torch.dtype:
    """The dtype that deltas are formed in and that most products run in."""
    import torch

    return torch.float64 if precision == Precision.FLOAT64 else torch.float32


@functools.cache
def coefficient_dtype(precision: str, device: str) -> torch.dtype:
    """The dtype for products that only yield coefficients (never entries of the result)."""
    import torch

    if precision == Precision.FAST:
        native = torch.cuda.is_bf16_supported() if device.startswith("cuda") else torch.cpu._is_avx512_bf16_supported()
        if native:
            return torch.bfloat16
    return compute_dtype(precision)
