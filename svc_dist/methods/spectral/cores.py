"""Task deltas that are all of low rank, seen in the two small spaces that their factors span.

With ``[B_1 ... B_K] = U T`` and ``[A_1^T ... A_K^T] = V S`` (QR), ``Di = Bi Ai = U Ci V^T`` where ``Ci = T_i S_i^T`` is
``(R, R)``, R the sum of the ranks. ``U`` and ``V`` have orthonormal columns, so the ``Ci`` have the singular values,
inner products and norms of the ``Di``: a merged delta ``C`` found among them is ``U C V^T`` among the ``Di``.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from svc_dist.linalg.finite import require_finite
from svc_dist.linalg.svd import ThinSvd, full_svd
from svc_dist.methods.deltas import TaskDeltas
from svc_dist.methods.low_rank import LowRank
from svc_dist.methods.spectral.policy import factored_rank


@dataclass(frozen=True)
class Cores:
    """The ``Ci`` in float64, each made when it is asked for.

    ``left (m, R)``: U; ``right (n, R)``: V; ``inner_left``, ``inner_right (R, R)``: T and S; ``blocks``: the columns of
    them that are an expert's; ``dtype``: of the deltas that a merged core is spread out to.
    """

    left: Tensor
    right: Tensor
    inner_left: Tensor
    inner_right: Tensor
    blocks: tuple[slice, ...]
    dtype: torch.dtype
    precision: str = "float64"

    def __len__(self) -> int:
        return len(self.blocks)

    def __iter__(self) -> Iterator[Tensor]:
        return (self.inner_left[:, block] @ self.inner_right[:, block].T for block in self.blocks)

    @property
    def shape(self) -> tuple[int, int]:
        """That of the task deltas, ``(m, n)``."""
        return self.left.shape[0], self.right.shape[0]

    @property
    def rank(self) -> int:
        return self.left.shape[1]

    def svd(self, index: int, count: int) -> ThinSvd:
        """The ``count`` leading triplets of ``Ci``, from its factors; see ``resolved_svd``."""
        block = self.blocks[index]
        left, first = torch.linalg.qr(self.inner_left[:, block])
        right, second = torch.linalg.qr(self.inner_right[:, block])
        inner = resolved_svd(first @ second.T, f"expert {index}'s task delta", self.shape, count)
        return ThinSvd(left @ inner.left, inner.values, inner.right @ right.T, inner.cut, inner.residual)

    def spread(self, core: Tensor) -> LowRank:
        """``U C V^T`` for a core C ``(R, R)``, as its factors."""
        return LowRank((self.left @ core).to(self.dtype), self.right.T.to(self.dtype))


def cores_of(deltas: TaskDeltas) -> Cores | None:
    """The cores of a matrix's deltas; None where one is not of low rank, or their ranks add up to too much to pay.

    Raises NumericsError naming an expert whose factors are not finite.
    """
    parts = deltas.low_rank()
    if parts is None or factored_rank(*parts[0].shape, [part.rank for part in parts]) is None:
        return None
    factors = [part.factors(torch.float64, deltas.device) for part in parts]
    for index, pair in enumerate(factors):
        for factor in pair:
            require_finite(factor, f"expert {index}'s task delta")
    ends = list(itertools.accumulate(factor.rank for factor in parts))
    blocks = tuple(slice(end - factor.rank, end) for end, factor in zip(ends, parts, strict=True))
    left, inner_left = torch.linalg.qr(torch.cat([pair[0] for pair in factors], dim=1))
    right, inner_right = torch.linalg.qr(torch.cat([pair[1].T for pair in factors], dim=1))
    return Cores(left, right, inner_left, inner_right, blocks, deltas.dtype)


def resolved_svd(core: Tensor, what: str, shape: tuple[int, int], count: int) -> ThinSvd:
    """The ``count`` leading triplets of a core, without those at the rounding level of a matrix ``shape``.

    ``cut`` counts what is left out of ``count``: there is nothing past a core's own size either.
    """
    left, values, right, residual = full_svd(core, what)
    level = max(shape) * torch.finfo(values.dtype).eps
    rank = min(count, int((values > level * values[:1]).sum()))
    return ThinSvd(left[:, :rank], values[:rank], right[:rank], count - rank, residual)
