"""What a spectral method and a calibration return for one matrix."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

TOP = 16  # leading values of a spectrum that a receipt carries


@dataclass(frozen=True)
class Merged:
    """A merged delta ``(m, n)`` and what a receipt says about how it was made.

    ``left (m, r)`` and ``right (n, r)``: the directions that the method itself built, where they are the singular
    vectors of ``delta`` or where its spectrum is flat and so does not tell any apart. ``finite``: the entries of
    ``delta`` are known to be.

    Of ``summary``, as far as a method has them: ``singular_values``, the leading ones of what it decomposed; ``sigma``,
    those of ``delta``; ``kept_rank``, how many directions it kept, and ``cut``, how many more it would have kept but
    for rounding; ``residual``, the largest of its decompositions' relative residuals.
    """

    delta: Tensor
    summary: dict[str, Any] = field(default_factory=dict)
    left: Tensor | None = None
    right: Tensor | None = None
    finite: bool = False

    def basis(self, side: str) -> Tensor | None:
        """The method's own directions on ``side`` (``left`` or ``right``), or None where it built none."""
        directions = self.left if side == "left" else self.right
        return directions if directions is not None and directions.shape[1] else None


def numbers(values: Tensor, count: int = TOP) -> list[float]:
    """The leading entries of a vector as plain numbers."""
    found: list[float] = values[:count].cpu().tolist()
    return found
