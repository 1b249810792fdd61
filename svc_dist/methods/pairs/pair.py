"""Two factors of a merged delta, and how they are found: of a product its own, of a matrix the best of some rank."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from svc_dist.errors import NumericsError
from svc_dist.linalg.finite import all_finite
from svc_dist.linalg.svd import full_svd, thin_svd
from svc_dist.methods.low_rank import LowRank

_ROWS = 1 << 20  # entries of a matrix that are compared with its factors at once


@dataclass(frozen=True)
class Pair:
    """``left (m, r) @ right (r, n)`` of a merged delta, in the dtype that they are written in.

    ``norm``: of the merged delta; ``error``: of the difference, both by Frobenius.
    """

    left: Tensor
    right: Tensor
    norm: float = 0.0
    error: float = 0.0

    def summary(self) -> dict[str, float]:
        """For a receipt: the norm, and the error relative to it."""
        return {"norm": self.norm, "error": self.error / self.norm if self.norm else 0.0}


def no_pair(rows: int, columns: int, rank: int, dtype: torch.dtype) -> Pair:
    """The factors of zero."""
    return Pair(torch.zeros(rows, rank, dtype=dtype), torch.zeros(rank, columns, dtype=dtype))


def best_pair(merged: Tensor, scale: float, rank: int, dtype: torch.dtype, what: str) -> Pair:
    """The factors of ``scale * merged`` with the smallest error at a rank: the leading directions (Eckart, Young).

    ``error`` counts the rounding of the factors to ``dtype`` too. Raises NumericsError naming ``what``.
    """
    svd = thin_svd(merged, what, count=min(rank, *merged.shape))
    left, right = _balanced(svd.left, svd.values, svd.right, scale, rank, dtype)
    norm, error = _measured(merged, left, right, scale)
    return Pair(left, right, norm, error)


def best_of_product(product: LowRank, scale: float, rank: int, dtype: torch.dtype, what: str) -> Pair:
    """As ``best_pair`` for a product of two factors, at a cost in its rank. Raises NumericsError naming ``what``."""
    first, second = product.factors(torch.float64, "cpu")
    (left, inner_left), (right, inner_right) = torch.linalg.qr(first), torch.linalg.qr(second.T)
    outer, values, inner, _ = full_svd(inner_left @ inner_right.T, what)
    kept = min(rank, len(values))
    factors = _balanced(left @ outer[:, :kept], values[:kept], inner[:kept] @ right.T, scale, rank, dtype)
    norm, rest = (abs(scale) * float(torch.linalg.vector_norm(part)) for part in (values, values[kept:]))
    return Pair(*factors, norm, rest)


def _balanced(
    left: Tensor, values: Tensor, right: Tensor, scale: float, rank: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Factors with the same strength on both sides, padded with zeros to a rank."""
    roots = (values.double() * abs(scale)).sqrt()
    left = (left.double() * (roots if scale >= 0 else -roots)).to(dtype).cpu()
    right = (roots[:, None] * right.double()).to(dtype).cpu()
    missing = rank - len(values)
    if missing > 0:
        left = torch.cat([left, left.new_zeros(len(left), missing)], dim=1)
        right = torch.cat([right, right.new_zeros(missing, right.shape[1])])
    return left, right


def _measured(merged: Tensor, left: Tensor, right: Tensor, scale: float) -> tuple[float, float]:
    """The norms of ``scale * merged`` and of what the factors miss of it, some rows at a time."""
    norm = error = 0.0
    step = max(1, _ROWS // max(merged.shape[1], 1))
    wide = right.to(merged.device).double()
    for start in range(0, len(merged), step):
        rows = merged[start : start + step].double() * scale
        norm += float(rows.square().sum())
        error += float(rows.sub_(left[start : start + step].to(merged.device).double() @ wide).square().sum())
    return math.sqrt(norm), math.sqrt(error)


def stacked_pair(
    products: list[LowRank], shares: list[float], blocks: tuple[int, ...], shape: tuple[int, int], dtype: torch.dtype
) -> Pair:
    """``sum_i s_i Bi Ai`` as one product ``[s_1 B_1 ... s_K B_K] [A_1; ...; A_K]``: exact.

    ``blocks``: the rank that is reserved for each, at least its own. The norm is that of the sum.
    """
    rows, columns = shape
    pair = no_pair(rows, columns, sum(blocks), dtype)
    start = 0
    for product, share, reserved in zip(products, shares, blocks, strict=True):
        left, _ = replace(product, scale=product.scale * share).factors(torch.float64, "cpu")
        pair.left[:, start : start + product.rank] = left
        pair.right[start : start + product.rank] = product.right
        start += reserved
    return replace(pair, norm=_norm(pair.left, pair.right))


def _norm(left: Tensor, right: Tensor) -> float:
    """``||left right||`` from the small Gram matrices; NaN where a factor is not finite."""
    if not all_finite(left) or not all_finite(right):
        return math.nan
    first, second = left.double(), right.double()
    return math.sqrt(max(0.0, float(((first.T @ first) * (second @ second.T)).sum())))


def require_finite_pair(pair: Pair, what: str) -> None:
    """Raise NumericsError where a factor is not finite."""
    if not (all_finite(pair.left) and all_finite(pair.right)):
        raise NumericsError(f"the factors of {what} are not finite")
