"""Singular value decompositions by products and one symmetric eigendecomposition, without squaring the matrix.

With X of ``lifted_to_one``, ``H = A X^T = U S f(S) U^T`` is symmetric: its eigenvectors are the left singular vectors,
its eigenvalues the singular values, and ``U^T X`` the right singular vectors, each as exact as an SVD's (Nakatsukasa &
Higham 2013, SIAM J. Sci. Comput. 35). A Gram matrix would lose values below 1e-8 of the largest.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from svc_dist.linalg.products.polar import lifted_to_one

Solver = Callable[[Tensor], tuple[Tensor, Tensor]]


def svd_by_products(matrix: Tensor, solver: Solver) -> tuple[Tensor, Tensor, Tensor] | None:
    """``U (m, m)``, ``s (m)`` descending and ``V^T (m, n)`` of a float64 matrix with ``m <= n``.

    Directions below 1e-12 of the largest are noise: the rows of ``V^T`` that belong to them are not of length 1.
    ``solver``: makes all eigenvalues, descending, and eigenvectors of a symmetric matrix. None for a matrix of zeros.
    """
    lifted = lifted_to_one(matrix)
    if lifted is None:
        return None
    factor = lifted[0]
    del lifted
    inner = matrix @ factor.T
    values, left = solver((inner + inner.T).mul_(0.5))
    del inner
    return left, values.clamp_min_(0), torch.matmul(left.T, factor)
