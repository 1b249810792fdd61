"""SWUDI through the Gram matrix of the stacked, normalised deltas ``S (K m, n)``, where that is smaller than C.

C is ``S^T S``. With ``S S^T = W diag(lam) W^T``: ``V = S^T W / sqrt(lam)`` and ``Di V = ||Di|| W_i sqrt(lam)``, so that
M is a combination of the deltas' rows, ``M = sum_i T_i Di``, with ``T_i (m, m)`` from small matrices alone.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from svc_dist.linalg.eigen import symmetric_eigen
from svc_dist.linalg.gram import mirrored, product
from svc_dist.methods.deltas import TaskDeltas
from svc_dist.methods.merged import Merged
from svc_dist.methods.spectral import streamed
from svc_dist.methods.spectral.filters import FLOOR, Filter, Spectrum, above_rounding, spectrum_summary
from svc_dist.methods.spectral.normal_equations import finite_norm, norms_at_once


def from_small_gram(deltas: TaskDeltas, init: str, chosen: Filter) -> Iterator[Merged]:
    """The merged delta for each of the filter's strengths. Two deltas are held at once."""
    rows, columns = deltas.shape
    norms = norms_at_once(deltas) or [finite_norm(delta, index) for index, delta in enumerate(deltas)]
    used = [index for index, norm in enumerate(norms) if norm]
    stacked = torch.zeros(len(used) * rows, len(used) * rows, dtype=torch.float64, device=deltas.device)
    blocks = [slice(number * rows, (number + 1) * rows) for number in range(len(used))]
    for number, index in enumerate(used):
        wide = deltas[index].double()
        for other in range(number + 1):
            scale = 1 / (norms[index] * norms[used[other]])
            stacked[blocks[number], blocks[other]] = product(wide, deltas[used[other]].T).mul_(scale)
        del wide
    mirrored(stacked)
    mixings = _mixings(stacked, columns, [norms[index] for index in used], len(deltas), init, chosen)
    del stacked
    for mixing, summary in mixings:
        merged = torch.zeros(rows, columns, dtype=torch.float64, device=deltas.device)
        for index, share in zip(used, mixing, strict=True):
            merged += product(share, deltas[index])
        yield Merged(merged.to(deltas.dtype), summary)
        del merged


def _mixings(
    stacked: Tensor, columns: int, norms: list[float], experts: int, init: str, chosen: Filter
) -> Iterator[tuple[list[Tensor], dict[str, object]]]:
    """The ``T_i (m, m)`` of ``M = sum_i T_i Di`` for each strength, from ``S S^T``, which is overwritten.

    ``norms``: the deltas'.
    """
    rows = len(stacked) // len(norms)
    blocks = [slice(number * rows, (number + 1) * rows) for number in range(len(norms))]
    grams = [stacked[block, block].clone() for block in blocks]
    values, vectors, residual = symmetric_eigen(stacked, "the Gram matrix of the stacked task deltas", overwrite=True)
    del stacked
    resolved = above_rounding(values, columns, torch.float64)
    padded = torch.full((columns,), FLOOR, dtype=torch.float64, device=values.device)
    padded[: len(values)] = values.clamp_min(FLOOR)
    top, cut = chosen.cut(Spectrum(padded, resolved, (len(values), columns)))
    # What lies at rounding level, or past the rank of C, is annihilated by R and by M0: it has nothing to add.
    count = min(top, resolved)
    vectors, root, lam = vectors[:, :count], values[:count].sqrt(), padded[:count]
    share = {"sum": 1.0, "mean": 1 / experts, "zero": 0.0}[init]
    summary = spectrum_summary(top, cut, values, residual)
    for strength in (strength(lam) for strength in chosen.strengths):
        inner = torch.zeros(rows, count, dtype=torch.float64, device=values.device)
        for norm, block, gram_block in zip(norms, blocks, grams, strict=True):
            reach = vectors[block] * root
            inner += norm * (gram_block @ reach * (strength / lam) - share * reach * strength)
            del reach
        mixing = []
        for norm, block in zip(norms, blocks, strict=True):
            mixing.append(inner @ (vectors[block] / root).T / norm)
            mixing[-1].diagonal().add_(share)
        del inner
        yield mixing, summary


def streamed_from_small_gram(deltas: TaskDeltas, init: str, chosen: Filter) -> Iterator[Merged]:
    """As through the small Gram matrix, over blocks of columns: that matrix and the result are held."""
    rows, columns = deltas.shape
    sizes = streamed.norms(deltas)
    used = [index for index, size in enumerate(sizes) if size]
    stacked = streamed.stacked_gram(deltas, used, sizes)
    mixings = _mixings(stacked, columns, [sizes[index] for index in used], len(deltas), init, chosen)
    del stacked
    for mixing, summary in mixings:
        merged = torch.zeros(rows, columns, dtype=deltas.dtype, device=deltas.device)
        for part in streamed.blocks(columns):
            block = deltas.part(columns=part)
            merged[:, part] = sum(share @ block[index].double() for index, share in zip(used, mixing, strict=True))
        yield Merged(merged, summary)
        del merged
