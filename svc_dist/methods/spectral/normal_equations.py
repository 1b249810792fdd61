"""The quadratic that WUDI and SWUDI minimise, as its normal equations ``M C = R``."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from svc_dist.errors import NumericsError
from svc_dist.linalg.devices.grain import lines
from svc_dist.linalg.gram import add_gram, gram, mirrored
from svc_dist.methods.deltas import TaskDeltas
from svc_dist.methods.spectral.policy import left_gram_is_cheaper

_ROWS = 256  # rows of a delta whose norm is taken at once


@dataclass(frozen=True)
class NormalEquations:
    """``C = sum_i Di^T Di / ||Di||^2 (n, n)`` and ``R = sum_i Di Di^T Di / ||Di||^2 (m, n)``.

    An expert whose delta is zero contributes nothing; ``count`` is how many do contribute, and the trace of C.
    """

    normal: Tensor
    target: Tensor
    count: int


def normal_equations(deltas: TaskDeltas) -> NormalEquations:
    """C and R of one matrix, one expert at a time, in the compute dtype.

    ``Di (Di^T Di)`` is formed from whichever Gram matrix makes it cheaper, all of them of ``Di / ||Di||``, so that no
    size of a delta is too small or too large to be squared. Raises NumericsError naming an expert whose delta is not
    finite.
    """
    rows, columns = deltas.shape
    target = torch.zeros(rows, columns, dtype=deltas.dtype, device=deltas.device)
    normal = target.new_zeros(columns, columns)
    count = 0
    for _, delta, norm in contributing(deltas):
        count += 1
        delta /= norm
        if left_gram_is_cheaper(rows, columns):
            add_gram(normal, delta.T)
            target.addmm_(gram(delta, delta.dtype), delta, alpha=norm)
        else:
            share = torch.zeros_like(normal)
            add_gram(share, delta.T)
            normal += share
            target.addmm_(delta, mirrored(share), alpha=norm)
            del share
        del delta  # before the next one is made
    return NormalEquations(mirrored(normal), target, count)


def normal_matrix(deltas: TaskDeltas) -> Tensor:
    """C alone."""
    normal = torch.zeros(deltas.shape[1], deltas.shape[1], dtype=deltas.dtype, device=deltas.device)
    for _, delta, norm in contributing(deltas):
        delta /= norm
        add_gram(normal, delta.T)
        del delta
    return mirrored(normal)


def contributing(deltas: TaskDeltas, known: list[float] | None = None) -> Iterator[tuple[int, Tensor, float]]:
    """Every task delta that is not zero, with its index and ``||Di||_F``. ``known``: what ``norms_at_once`` found."""
    known = norms_at_once(deltas) if known is None else known
    for index in range(len(deltas)):
        if known is not None and not known[index]:
            continue
        delta = deltas[index]
        norm = finite_norm(delta, index) if known is None else known[index]
        if norm:
            yield index, delta, norm
        del delta


def norms_at_once(deltas: TaskDeltas) -> list[float] | None:
    """``||Di||_F`` of every expert with one wait for the device; None where that takes copies to it, or needs none.

    Raises NumericsError naming an expert that is not finite.
    """
    if not deltas.on_device:
        return None
    norms: list[float] = torch.stack([_norm(delta) for delta in deltas]).cpu().tolist()
    for index, norm in enumerate(norms):
        _require_finite_norm(norm, index)
    return norms


def known_finite(deltas: TaskDeltas) -> bool:
    """Whether all deltas were found to be finite, at once: else each must be looked at. Raises NumericsError."""
    return norms_at_once(deltas) is not None


def finite_norm(delta: Tensor, index: int) -> float:
    """``||Di||_F``. Raises NumericsError naming the expert when it is not finite."""
    if delta.device.type != "cpu":
        norm = float(_norm(delta))
    else:
        blocks = (delta[start : start + _ROWS] for start in range(0, len(delta), _ROWS))  # what is summed is cast first
        norm = math.hypot(*(float(torch.linalg.vector_norm(block, dtype=torch.float64)) for block in blocks))
    _require_finite_norm(norm, index)
    return norm


def _norm(delta: Tensor) -> Tensor:
    """``||D||_F`` on the device of D, in float64."""
    step = lines(delta.device, _ROWS, delta.shape[1])
    parts = [
        torch.linalg.vector_norm(delta[start : start + step], dtype=torch.float64)
        for start in range(0, len(delta), step)
    ]
    norm: Tensor = torch.linalg.vector_norm(torch.stack(parts))
    return norm


def _require_finite_norm(norm: float, index: int) -> None:
    if not math.isfinite(norm):
        raise NumericsError(f"expert {index}'s task delta has entries that are not finite")
