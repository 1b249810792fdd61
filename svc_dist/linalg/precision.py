"""The three levels of precision, and the dtypes that they compute in. Importing this loads no torch."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

from svc_dist.errors import require_choice

if TYPE_CHECKING:
    import torch


class Precision(StrEnum):
    """A level of precision, as recipes, plans and commands name it."""

    MIXED = "mixed"
    """Whatever a small difference depends on in float64: decompositions, Gram matrices, the factors of a merged matrix.

    Other products in float32. The default: within 1e-5 of ``float64``.
    """
    FAST = "fast"
    """Like ``mixed``, with SWUDI's sums in float32."""
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
