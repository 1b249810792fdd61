"""Inputs of the spectral tests, and the one way in which they run a method."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from svc_dist.methods.apply import ResultParameters, merged_matrices
from svc_dist.methods.calibration.svc import Calibrated
from svc_dist.methods.deltas import Deltas, TaskDeltas
from svc_dist.methods.low_rank import LowRank
from svc_dist.methods.merged import Merged
from svc_dist.methods.method import Method
from svc_dist.methods.registry import CALIBRATIONS, METHODS

SPECTRAL = tuple(name for name, method in METHODS.items() if method.family == "spectral" and not method.experimental)
CANDIDATES = tuple(name for name, method in METHODS.items() if method.family == "spectral" and method.experimental)


def run(name: str, deltas: TaskDeltas, **given: Any) -> Merged:
    """A spectral method with defaults from the registry."""
    method = METHODS[name]
    complete = {parameter.name: parameter.default for parameter in method.parameters} | given
    return next(method.results([complete], deltas))[1]


def calibrated(merged: Merged, deltas: TaskDeltas, alpha: float | None = None, side: str = "left") -> Tensor:
    return svc(merged, deltas, alpha=alpha, side=side).delta


def svc(merged: Merged, deltas: Deltas, **given: Any) -> Calibrated:
    """SVC for one set of parameters, with defaults from the registry."""
    complete = CALIBRATIONS["svc"].complete(given, len(deltas))
    return next(CALIBRATIONS["svc"].results([{k: v for k, v in complete.items() if k != "method"}], merged, deltas))[1]


def merge_matrix(
    deltas: TaskDeltas,
    method: Method,
    parameters: Mapping[str, Any],
    calibration: Mapping[str, Any] | None = None,
    summaries: list[dict[str, Any]] | None = None,
) -> Tensor | LowRank:
    """One result of one matrix, through ``merged_matrices``. A calibration's parameters may be incomplete."""
    if calibration is not None:
        calibration = CALIBRATIONS[calibration["method"]].complete(calibration, len(deltas))
    results = [ResultParameters(parameters, calibration)]
    return next(merged_matrices(deltas, method, results, () if summaries is None else [summaries]))[1]


def error(result: Tensor, expected: Tensor) -> float:
    """Relative Frobenius error."""
    return float(torch.linalg.norm(result.double() - expected) / torch.linalg.norm(expected))


def fine_tunes(rows: int, columns: int, experts: int, seed: int = 0) -> list[Tensor]:
    """A base and its fine-tunes: strong directions shared by all, own ones that decay, a dense rest.

    Multiples of 2^-20 in float32, so that differences are exact and far above what storage rounds.
    """
    return list(_fine_tunes(rows, columns, experts, seed))


@functools.lru_cache(maxsize=4)  # tests with the same ones follow each other
def _fine_tunes(rows: int, columns: int, experts: int, seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    rank = max(2, min(rows, columns) // 4)

    def directions(strength: float, decay: float, count: int) -> Tensor:
        values = strength * torch.arange(1, count + 1) ** -decay
        left = torch.randn(rows, count, generator=generator) / math.sqrt(rows)
        return (left * values) @ torch.randn(count, columns, generator=generator) / math.sqrt(columns)

    base = torch.randn(rows, columns, generator=generator) * 0.02
    shared = directions(3.0, 0.7, max(2, rank // 8))
    models = [_on_grid(base)]
    for _ in range(experts):
        dense = torch.randn(rows, columns, generator=generator) * 3e-4
        models.append(_on_grid(base + 0.7 * shared + directions(2.0, 0.6, rank) + dense))
    return models


def _on_grid(tensor: Tensor) -> Tensor:
    return (tensor * 2**20).round() / 2**20


def adapters(rows: int, columns: int, ranks: Sequence[int], seed: int = 0) -> list[Tensor]:
    """Low-rank deltas ``B_i A_i``, as of LoRA experts, of exactly that rank to float64."""
    generator = torch.Generator().manual_seed(seed)
    left = [torch.randn(rows, rank, generator=generator).double() for rank in ranks]
    return [factor @ torch.randn(factor.shape[1], columns, generator=generator).double() / 100 for factor in left]


def taken(models: Sequence[Tensor], precision: str) -> TaskDeltas:
    """The deltas of experts from a base, which comes first."""
    return TaskDeltas(models[1:], models[0], precision=precision)


def stack(deltas: TaskDeltas) -> Tensor:
    """All deltas ``(K, m, n)`` in float64, exactly."""
    return torch.stack(list(deltas.at("float64")))


@st.composite
def experts(draw: st.DrawFn, least: int = 2) -> list[Tensor]:
    rows, columns = draw(st.integers(3, 24)), draw(st.integers(3, 24))
    models = fine_tunes(rows, columns, draw(st.integers(least, 5)), draw(st.integers(0, 1000)))
    return [model.double() for model in stack(taken(models, "float64"))]


def exactly(deltas: list[Tensor]) -> TaskDeltas:
    return TaskDeltas(deltas, precision="float64")
