"""SWUDI and SWUDI-A: WUDI's quadratic solved in closed form on its leading directions.

Wei et al. 2026, arXiv 2606.07289. The minimum of ``sum_i ||(M - Di) Di^T||^2 / ||Di||^2`` satisfies ``M C = R`` with
``C = sum_i Di^T Di / ||Di||^2 (n, n)`` and ``R = sum_i Di Di^T Di / ||Di||^2 (m, n)``. On the eigenvectors V of C,
``M = M0 + ((R V) diag(1/lam) - M0 V) diag(f) V^T``.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from svc_dist.linalg.eigen import leading_eigen, symmetric_eigen
from svc_dist.linalg.gram import mirrored, product
from svc_dist.linalg.krylov import krylov_pays
from svc_dist.methods.deltas import TaskDeltas
from svc_dist.methods.merged import Merged, numbers
from svc_dist.methods.spectral import streamed
from svc_dist.methods.spectral.normal_equations import contributing, finite_norm, normal_equations, normal_matrix
from svc_dist.methods.spectral.policy import small_gram_is_cheaper, swudi_precision
from svc_dist.methods.spectral.rank_rules import rank

FLOOR = 1e-8  # smallest eigenvalue of C that is divided by
_ROWS = 512  # rows of R that are multiplied in float64 at once


@dataclass(frozen=True)
class Spectrum:
    """The ``n`` eigenvalues of C, descending and clamped at 1e-8, of which ``resolved`` are above rounding level.

    ``shape (K m, n)``: of the stacked, normalised deltas, whose squared singular values they are.
    """

    values: Tensor
    resolved: int
    shape: tuple[int, int]


@dataclass(frozen=True)
class Filter:
    """Which directions are kept (``rank``; ``known`` where it needs no spectrum) and how far each goes (``strengths``).

    ``strengths``: one for each result that is wanted. ``resolved``: only directions above rounding level are kept.
    """

    rank: Callable[[Spectrum], int]
    strengths: Sequence[Callable[[Tensor], Tensor]]
    known: int | None
    resolved: bool

    def cut(self, found: Spectrum) -> tuple[int, int]:
        """How many directions are kept, and how many more would have been but for rounding."""
        wanted = self.rank(found)
        kept = min(wanted, found.resolved) if self.resolved else wanted
        return kept, wanted - kept


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


def swudi_filter(columns: int, exp_times: Sequence[float], rank_ratio: float) -> Filter:
    """The first ``rank_ratio`` of the directions, each as far as the gradient flow gets in each of the times."""
    top = min(columns, max(1, math.ceil(rank_ratio * columns)))
    strengths = [functools.partial(_flowed, exp_time) for exp_time in exp_times]
    return Filter(lambda _: top, strengths, top, resolved=False)


def swudi_a_filter(rank_rule: str) -> Filter:
    """As many directions as the rule finds, each to the minimum."""
    return Filter(lambda found: rank(rank_rule, found.values, found.shape), [torch.ones_like], None, resolved=True)


def _flowed(exp_time: float, lam: Tensor) -> Tensor:
    return -torch.expm1(-lam * exp_time)


def _solved(deltas: TaskDeltas, init: str, chosen: Filter) -> Iterator[Merged]:
    rows, columns = deltas.shape
    if small_gram_is_cheaper(rows, columns, len(deltas)):
        return (_streamed_small_gram if deltas.low_memory else _from_small_gram)(deltas, init, chosen)
    if swudi_precision(rows, columns, deltas.precision) != deltas.precision:
        return _in_float64(deltas, init, chosen)
    if deltas.low_memory:
        return _streamed(deltas, init, chosen)
    if chosen.known is not None and krylov_pays(columns, chosen.known):
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
    for start in range(0, rows, _ROWS):
        part = slice(start, start + _ROWS)
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


def _from_small_gram(deltas: TaskDeltas, init: str, chosen: Filter) -> Iterator[Merged]:
    """Through the Gram matrix of the stacked, normalised deltas ``S (K m, n)``, which is smaller than ``C = S^T S``.

    With ``S S^T = W diag(lam) W^T``: ``V = S^T W / sqrt(lam)`` and ``Di V = ||Di|| W_i sqrt(lam)``, so that M is a
    combination of the deltas' rows, ``M = sum_i T_i Di``, with ``T_i (m, m)`` from small matrices alone. Two deltas are
    held at once.
    """
    rows, columns = deltas.shape
    norms = [finite_norm(delta, index) for index, delta in enumerate(deltas)]
    used = [index for index, norm in enumerate(norms) if norm]
    stacked = torch.zeros(len(used) * rows, len(used) * rows, dtype=torch.float64, device=deltas.device)
    blocks = [slice(place * rows, (place + 1) * rows) for place in range(len(used))]
    for place, index in enumerate(used):
        wide = deltas[index].double()
        for other in range(place + 1):
            scale = 1 / (norms[index] * norms[used[other]])
            stacked[blocks[place], blocks[other]] = product(wide, deltas[used[other]].T).mul_(scale)
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
    blocks = [slice(place * rows, (place + 1) * rows) for place in range(len(norms))]
    own = [stacked[block, block].clone() for block in blocks]
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
        for norm, block, gram_block in zip(norms, blocks, own, strict=True):
            reach = vectors[block] * root
            inner += norm * (gram_block @ reach * (strength / lam) - share * reach * strength)
            del reach
        mixing = []
        for norm, block in zip(norms, blocks, strict=True):
            mixing.append(inner @ (vectors[block] / root).T / norm)
            mixing[-1].diagonal().add_(share)
        del inner
        yield mixing, summary


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


def _streamed_small_gram(deltas: TaskDeltas, init: str, chosen: Filter) -> Iterator[Merged]:
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


def above_rounding(values: Tensor, columns: int, dtype: torch.dtype) -> int:
    """How many eigenvalues of C exceed ``n * eps * lam_0``, with the eps of the arithmetic that C was summed in."""
    return max(1, int((values > columns * torch.finfo(dtype).eps * float(values[0])).sum()))


def spectrum_summary(top: int, cut: int, lam: Tensor, residual: float) -> dict[str, object]:
    """For a receipt: ``singular_values`` are those of the stacked, normalised deltas, the roots of C's eigenvalues."""
    return {
        "kept_rank": top,
        "cut": cut,
        "residual": residual,
        "singular_values": numbers(lam.clamp_min(0).sqrt()),
    }
