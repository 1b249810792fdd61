"""SWUDI and SWUDI-A: WUDI's quadratic solved in closed form on its leading directions.

Wei et al. 2026, arXiv 2606.07289. The minimum of ``sum_i ||(M - Di) Di^T||^2 / ||Di||^2`` satisfies ``M C = R`` with
``C = sum_i Di^T Di / ||Di||^2 (n, n)`` and ``R = sum_i Di Di^T Di / ||Di||^2 (m, n)``. On the eigenvectors V of C,
``M = M0 + ((R V) diag(1/lam) - M0 V) diag(f) V^T``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from svc_dist.linalg.devices.grain import lines
from svc_dist.linalg.eigen import leading_eigen, symmetric_eigen
from svc_dist.linalg.krylov import krylov_pays
from svc_dist.methods.deltas import TaskDeltas
from svc_dist.methods.merged import Merged
from svc_dist.methods.spectral import streamed
from svc_dist.methods.spectral.filters import (
    FLOOR,
    Filter,
    Spectrum,
    above_rounding,
    spectrum_summary,
    swudi_a_filter,
    swudi_filter,
)
from svc_dist.methods.spectral.normal_equations import contributing, normal_equations, normal_matrix
from svc_dist.methods.spectral.policy import blocks_save_memory, small_gram_is_cheaper, swudi_precision
from svc_dist.methods.spectral.small_gram import from_small_gram, streamed_from_small_gram

_ROWS = 512  # rows of R that are multiplied in float64 at once


def swudi(deltas: TaskDeltas, *, exp_time: Sequence[float], rank_ratio: float, init: str) -> Iterator[Merged]:
    """SWUDI: gradient flow from ``M0`` on the top ``rank_ratio`` of the directions of C, for each ``exp_time``.

    ``f = 1 - exp(-lam * exp_time)`` on the kept directions. ``init``: M0 is the ``sum`` of the deltas, their ``mean``,
    or ``zero``. All times take one decomposition; the results come one after another.
    """
    return _solved(deltas, init, swudi_filter(deltas.shape[1], exp_time, rank_ratio))


def swudi_a(deltas: TaskDeltas, *, rank_rule: str, init: str) -> Merged:
    """SWUDI-A: the minimum itself (``f = 1``) on as many directions as ``rank_rule`` finds in the spectrum of C.

    A direction at rounding level, ``lam <= n * eps * lam_0``, is never kept. Where that is a matter of float32
    arithmetic, the matrix is done in float64.
    """
    return next(_solved(deltas, init, swudi_a_filter(rank_rule)))


def _solved(deltas: TaskDeltas, init: str, chosen: Filter) -> Iterator[Merged]:
    rows, columns = deltas.shape
    if small_gram_is_cheaper(rows, columns, len(deltas)):
        return (streamed_from_small_gram if deltas.low_memory else from_small_gram)(deltas, init, chosen)
    if swudi_precision(rows, columns, deltas.precision) != deltas.precision:
        return _in_float64(deltas, init, chosen)
    if deltas.low_memory and blocks_save_memory(rows, columns):
        return _streamed(deltas, init, chosen)
    if chosen.known is not None and krylov_pays(columns, chosen.known, deltas.device):
        return _from_few_directions(deltas, init, chosen, chosen.known)
    return _from_all_directions(deltas, init, chosen)


def _in_float64(deltas: TaskDeltas, init: str, chosen: Filter) -> Iterator[Merged]:
    for merged in _solved(deltas.at("float64"), init, chosen):
        yield Merged(merged.delta.to(deltas.dtype), merged.summary)
        del merged  # before the next one is made


def _from_all_directions(deltas: TaskDeltas, init: str, chosen: Filter) -> Iterator[Merged]:
    """C and R in one pass over the experts, all eigenvalues of C and the eigenvectors that are kept; M0 in a second.

    Beside the decomposition, which is what takes most memory, only R is held.
    """
    rows, columns = deltas.shape
    equations = normal_equations(deltas)
    normal, target = equations.normal, equations.target
    shape = (equations.count * rows, columns)
    del equations
    wide = normal.double()
    del normal
    values, vectors, residual, cut = _kept_directions(wide, deltas, chosen, shape)
    del wide
    fine = vectors.dtype
    if cut and deltas.dtype != torch.float64:
        del target, vectors
        yield from _in_float64(deltas, init, chosen)
        return
    lam = values[: vectors.shape[1]].clamp_min(FLOOR)
    only = chosen.strengths[0] if len(chosen.strengths) == 1 else None
    # Along small directions R is small, but its rounding, and that of V, is not: 1/lam would show it.
    reached = target.new_empty(rows, len(lam), dtype=None if only else fine)
    step = lines(target.device, _ROWS, columns)
    for start in range(0, rows, step):
        part = slice(start, start + step)
        along = target[part].to(fine) @ vectors
        reached[part] = along if only is None else along.mul_((only(lam) / lam).to(fine))
    del target
    kept = vectors.to(deltas.dtype)
    del vectors
    summary = spectrum_summary(len(lam), cut, values, residual)
    if only is not None:
        yield Merged(_moved(deltas.total(), reached, kept, only(lam), init, len(deltas)), summary)
        return
    inners = ((reached * (strength(lam) / lam).to(fine)).to(kept.dtype) for strength in chosen.strengths)
    yield from _moved_each(deltas, inners, kept, [strength(lam) for strength in chosen.strengths], init, summary)


def _kept_directions(
    wide: Tensor, deltas: TaskDeltas, chosen: Filter, shape: tuple[int, int]
) -> tuple[Tensor, Tensor, float, int]:
    """All eigenvalues of C, which is overwritten, the eigenvectors that are kept, the residual, and how many are cut.

    ``shape``: of the stacked, normalised deltas.
    """
    cut = 0

    def top(values: Tensor) -> int:
        nonlocal cut
        resolved = above_rounding(values, shape[1], deltas.dtype)
        kept, cut = chosen.cut(Spectrum(values.clamp_min(FLOOR), resolved, shape))
        return kept

    fine = deltas.dtype if deltas.precision == "fast" else torch.float64
    values, vectors, residual = symmetric_eigen(wide, "C", count=top, dtype=fine, overwrite=True)
    return values, vectors, residual, cut


def _from_few_directions(deltas: TaskDeltas, init: str, chosen: Filter, top: int) -> Iterator[Merged]:
    """A Krylov space of C, and ``R V`` in a second pass instead of R."""
    normal = normal_matrix(deltas)
    values, vectors, residual = leading_eigen(normal, top, "C")
    del normal
    kept = vectors.to(deltas.dtype)
    lam = values.clamp_min(FLOOR)
    strengths = [strength(lam) for strength in chosen.strengths]
    summary = spectrum_summary(top, 0, values, residual)
    inner = kept.new_zeros(deltas.shape[0], top)
    for _, delta, norm in contributing(deltas):
        delta /= norm
        inner.addmm_(delta, delta.T @ (delta @ kept), alpha=norm)
        del delta
    if len(strengths) == 1:
        inner *= (strengths[0] / lam).to(kept.dtype)
        yield Merged(_moved(deltas.total(), inner, kept, strengths[0], init, len(deltas)), summary)
        return
    inners = (inner * (strength / lam).to(kept.dtype) for strength in strengths)
    yield from _moved_each(deltas, inners, kept, strengths, init, summary)


def _streamed(deltas: TaskDeltas, init: str, chosen: Filter) -> Iterator[Merged]:
    """As from all directions, with ``R V`` and the sum of the deltas formed in blocks: C, V and the result are held."""
    rows, columns = deltas.shape
    sizes = streamed.norms(deltas)
    shape = (sum(map(bool, sizes)) * rows, columns)
    wide = streamed.normal_matrix(deltas, sizes).double()
    values, vectors, residual, cut = _kept_directions(wide, deltas, chosen, shape)
    del wide
    fine = vectors.dtype
    if cut and deltas.dtype != torch.float64:
        del vectors
        yield from _in_float64(deltas, init, chosen)
        return
    lam = values[: vectors.shape[1]].clamp_min(FLOOR)
    summary = spectrum_summary(len(lam), cut, values, residual)
    for number, strength in enumerate(strength(lam) for strength in chosen.strengths):
        merged = torch.empty(rows, columns, dtype=deltas.dtype, device=deltas.device)
        inner = merged[:, : len(lam)]  # the result's place holds them until it is formed
        streamed.target_product(deltas, sizes, vectors, (strength / lam).to(fine), inner)
        kept = vectors.to(deltas.dtype)
        if number == len(chosen.strengths) - 1:
            del vectors
        for part in streamed.blocks(rows):
            total = streamed.sum_of(deltas.part(rows=part))
            merged[part] = _moved(total, inner[part].clone(), kept, strength, init, len(deltas))
        del inner, kept
        yield Merged(merged, summary)
        del merged


def _moved(total: Tensor, inner: Tensor, kept: Tensor, strength: Tensor, init: str, experts: int) -> Tensor:
    """``M0 + (inner - M0 V diag(f)) V^T``, in the memory of the sum of the deltas."""
    start = total if init == "sum" else total.mul_(0 if init == "zero" else 1 / experts)
    if init != "zero":
        inner -= (start @ kept).mul_(strength.to(kept.dtype))
    return start.addmm_(inner, kept.T)


def _moved_each(
    deltas: TaskDeltas,
    inners: Iterable[Tensor],
    kept: Tensor,
    strengths: Sequence[Tensor],
    init: str,
    summary: dict[str, object],
) -> Iterator[Merged]:
    """What ``_moved`` gives for each strength: what M0 has along the kept directions is found once."""
    start = deltas.total()
    start = start if init == "sum" else start.mul_(0 if init == "zero" else 1 / len(deltas))
    reach = None if init == "zero" else start @ kept
    for inner, strength in zip(inners, strengths, strict=True):
        if reach is not None:
            inner -= reach * strength.to(kept.dtype)
        yield Merged(torch.addmm(start, inner, kept.T), summary)
        del inner
