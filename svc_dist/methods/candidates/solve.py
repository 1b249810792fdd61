"""Linear systems with a positive definite matrix, in float64."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from svc_dist.linalg.devices.transfer import sent
from svc_dist.linalg.eigen import symmetric_eigen
from svc_dist.linalg.finite import require_finite

_PROBES = 4
_MARGIN = 300.0  # times what rounding alone is expected to leave


def solved(matrix: Tensor, rows: Tensor, what: str) -> tuple[Tensor, float]:
    """``X`` of ``X S = rows`` for a symmetric positive definite ``S (n, n)`` and ``rows (m, n)``, and its residual.

    By Cholesky's factors, and where these do not exist or do not fit, by the eigenvectors of S, without the directions
    at its rounding level. The residual is ``||X S - rows||`` relative to the sizes of both sides, from a few random
    combinations of rows. Raises NumericsError naming ``what`` where S is not finite or cannot be decomposed.
    """
    require_finite(matrix, what)
    generator = torch.Generator().manual_seed(0)
    probes = sent(torch.randn(_PROBES, len(rows), generator=generator, dtype=torch.float64), rows.device)
    factor, info = torch.linalg.cholesky_ex(matrix)
    if not int(info):
        found = torch.cholesky_solve(rows.T, factor).T
        residual = _residual(probes, found, matrix, rows)
        if residual <= _MARGIN * torch.finfo(matrix.dtype).eps * math.sqrt(max(len(matrix), 16)):
            return found, residual
        del found
    del factor
    values, vectors, residual = symmetric_eigen(matrix, what)
    kept = int((values > len(values) * torch.finfo(values.dtype).eps * values[:1]).sum())
    vectors = vectors[:, :kept]
    return ((rows @ vectors) / values[:kept]) @ vectors.T, residual


def _residual(probes: Tensor, found: Tensor, matrix: Tensor, rows: Tensor) -> float:
    ours, theirs = probes @ found, probes @ rows
    sizes = [torch.linalg.vector_norm(one) for one in (ours @ matrix - theirs, ours, matrix, theirs)]
    off, solution, size, target = torch.stack(sizes).cpu().tolist()
    return float(off / (solution * size + target)) if target else 0.0
