"""Symmetric eigendecompositions of matrices that a solver cannot take whole: split in two by products.

The projector on the eigenvalues above a shift is ``(I + S) / 2`` with S the polar factor of ``A - shift I``.
Orthonormal bases of both ranges turn A into two blocks of about half its size, which the solver takes (Nakatsukasa &
Higham 2013, SIAM J. Sci. Comput. 35).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from svc_dist.linalg.products.polar import polar_by_products

_SEED = 1305_5816
_SHIFTS = 6  # places to split at that are tried
_NEAR = 0.02  # relative change of a shift that lies on an eigenvalue
Solver = Callable[[Tensor], tuple[Tensor, Tensor]]


def eigen_of_halves(matrix: Tensor, largest: int, solver: Solver) -> tuple[Tensor, Tensor]:
    """Eigenvalues (ascending) and eigenvectors ``(n, n)`` of a float64 matrix with non-negative eigenvalues.

    ``solver``: makes those of matrices of at most ``largest`` rows. Raises LinAlgError where no split is found.
    """
    size = len(matrix)
    low, high = 0.0, float(matrix.abs().sum(1).max())
    shift = float(matrix.diagonal().mean())
    for _ in range(_SHIFTS):
        if not 0 < shift < high:
            break
        shifted = matrix.clone()
        shifted.diagonal().sub_(shift)
        sign = polar_by_products(shifted)
        del shifted
        if sign is None:  # an eigenvalue is too close
            shift *= 1 + _NEAR
            continue
        above = round((size + float(sign.diagonal().sum())) / 2)
        if above > largest:
            low, shift = shift, (shift * high) ** 0.5
        elif size - above > largest:
            high, shift = shift, max((low * shift) ** 0.5, shift / 100)
        else:
            return _of_both(matrix, sign, above, solver)
        del sign
    raise torch.linalg.LinAlgError(  # type: ignore[attr-defined]
        f"its {size:,} rows are more than the {largest:,} that the library takes, and no place to split it was found"
    )


def _of_both(matrix: Tensor, sign: Tensor, above: int, solver: Solver) -> tuple[Tensor, Tensor]:
    """The eigenpairs of the two invariant spaces that a matrix sign tells apart. Takes the memory of ``sign``."""
    size = len(matrix)
    generator = torch.Generator().manual_seed(_SEED)
    values, vectors = [], torch.empty_like(matrix)
    for start, count, direction in ((0, size - above, -1.0), (size - above, above, 1.0)):
        start_vectors = torch.randn(size, count, dtype=matrix.dtype, generator=generator).to(matrix.device)
        basis = start_vectors
        for _ in range(2):  # the second pass takes out what rounding has left of the other space
            basis = torch.linalg.qr(torch.addmm(basis, sign, basis, beta=0.5, alpha=0.5 * direction)).Q
        inner = basis.T @ (matrix @ basis)
        found, rotation = solver((inner + inner.T) / 2)
        values.append(found)
        torch.matmul(basis, rotation, out=vectors[:, start : start + count])
        del basis, inner, rotation
    return torch.cat(values), vectors
