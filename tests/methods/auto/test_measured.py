"""The features of constructed deltas against float64 references by other ways of computing them, in numpy."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from svc_dist.methods.auto.features import Features
from svc_dist.methods.auto.measured import SampledRows, measured

Array = NDArray[np.float64]


def deltas_of(kind: str, experts: int, rows: int, columns: int, seed: int) -> Array:
    """Deltas that share half of their energy, of full rank; of rank 3; of a few rows; or that cancel."""
    random = np.random.default_rng(seed)
    common = random.standard_normal((rows, columns))
    own = random.standard_normal((experts, rows, columns))
    if kind == "low rank":
        factors = random.standard_normal((experts, rows, 3)), random.standard_normal((experts, 3, columns))
        return np.einsum("kir,krj->kij", *factors)
    if kind == "sparse":
        return own * (random.random((experts, rows, 1)) < 0.2)
    if kind == "cancel":
        return own - own.mean(0)
    return own + common


def expected(matrices: list[tuple[Array, Array, int]]) -> dict[str, object]:
    """The same figures from norms of sums, cosines of pairs, and singular values."""
    experts = len(matrices[0][1])
    weights = [elements / deltas[0].size for _, deltas, elements in matrices]
    energy = sum(w * np.linalg.norm(d, axis=(1, 2)) ** 2 for w, (_, d, _) in zip(weights, matrices, strict=True))
    total = sum(w * np.linalg.norm(d.sum(0)) ** 2 for w, (_, d, _) in zip(weights, matrices, strict=True))
    base = sum(w * np.linalg.norm(b) ** 2 for w, (b, _, _) in zip(weights, matrices, strict=True))
    long = [
        np.concatenate([np.sqrt(w) * d[k].reshape(-1) for w, (_, d, _) in zip(weights, matrices, strict=True)])
        for k in range(experts)
    ]
    pairs = [a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in itertools.combinations(long, 2)]
    ranks = []
    for _, deltas, _ in matrices:
        for delta in deltas:
            rows = delta[np.abs(delta).max(1) > 0]
            if len(rows) < 2:
                continue
            values = np.linalg.svd(rows, compute_uv=False)
            ranks.append((values**2).sum() ** 2 / (values**4).sum() / min(rows.shape))
    entries = sum(elements for _, _, elements in matrices)
    return {
        "times": total / energy.sum(),
        "cosine": np.mean(pairs),
        "changed": sum(np.mean(d != 0) * elements for _, d, elements in matrices) / entries,
        "rank": np.mean(ranks),
        "norms": np.sqrt(energy / base),
    }


@pytest.mark.parametrize("kind", ["shared", "low rank", "sparse", "cancel"])
def test_features_are_those_of_a_reference(kind: str) -> None:
    matrices = [
        (
            np.random.default_rng(number).standard_normal((rows, columns)),
            deltas_of(kind, 3, rows, columns, number),
            size,
        )
        for number, (rows, columns, size) in enumerate([(24, 40, 5000), (30, 16, 480), (8, 64, 9000)])
    ]
    found = measured([SampledRows(*map(torch.from_numpy, (b, d)), e) for b, d, e in matrices], 3, 0, 77)
    for name, value in expected(matrices).items():
        assert getattr(found, name) == pytest.approx(value, rel=6e-3, abs=1e-9), name
    assert (found.experts, found.adapters, found.tensors, found.bytes_read) == (3, 0.0, 3, 77)


def test_experts_that_learned_the_same_are_counted_as_often_as_there_are_experts() -> None:
    same = torch.randn(1, 16, 20, dtype=torch.float64).expand(4, 16, 20)
    found = measured([SampledRows(torch.ones(16, 20, dtype=torch.float64), same, 320)], 4, 1, 0)
    assert (found.times, found.cosine, found.changed, found.adapters) == (4.0, 1.0, 1.0, 0.25)


def test_experts_that_equal_the_base_have_figures_too() -> None:
    nothing = SampledRows(torch.ones(4, 4).double(), torch.zeros(2, 4, 4).double(), 16)
    assert measured([nothing], 2, 0, 0) == Features(2, 0.0, 1.0, 0.0, 0.0, 0.0, (0.0, 0.0), 1, 0)
