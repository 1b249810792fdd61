"""The cores of low-rank deltas: the same singular values, inner products and merges as the deltas themselves."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from svc_dist.errors import NumericsError
from svc_dist.methods.deltas import TaskDeltas
from svc_dist.methods.low_rank import LowRank
from svc_dist.methods.spectral.cores import Cores, cores_of, resolved_svd

SHAPE = (40, 60)


def changes(ranks: Sequence[int]) -> list[LowRank]:
    random = torch.Generator().manual_seed(0)
    return [
        LowRank(torch.randn(SHAPE[0], r, generator=random), torch.randn(r, SHAPE[1], generator=random), 0.5)
        for r in ranks
    ]


def deltas_of(parts: Sequence[LowRank]) -> TaskDeltas:
    return TaskDeltas([None] * len(parts), changes=parts, precision="float64", shape=SHAPE)


def cores(parts: Sequence[LowRank]) -> Cores:
    made = cores_of(deltas_of(parts))
    assert made is not None
    return made


def dense(part: LowRank) -> Tensor:
    return part.scale * (part.left.double() @ part.right.double())


def test_cores_spread_out_are_the_deltas() -> None:
    parts = changes((3, 1, 5))
    made = cores(parts)
    assert (len(made), made.rank, made.shape) == (3, 9, SHAPE)
    for core, part in zip(made, parts, strict=True):
        spread = made.spread(core)
        assert torch.allclose(spread.left @ spread.right, dense(part), atol=1e-12)
        assert torch.allclose(torch.linalg.svdvals(core)[:1], torch.linalg.svdvals(dense(part))[:1])


def test_both_bases_are_orthonormal() -> None:
    made = cores(changes((3, 4)))
    for basis in (made.left, made.right):
        assert torch.allclose(basis.T @ basis, torch.eye(7, dtype=torch.float64), atol=1e-12)


def test_the_svd_of_a_core_is_that_of_its_delta_and_counts_what_is_not_there() -> None:
    parts = changes((3, 4))
    svd = cores(parts).svd(0, 5)
    assert (len(svd.values), svd.cut) == (3, 2)
    assert torch.allclose(svd.values, torch.linalg.svdvals(dense(parts[0]))[:3], rtol=1e-10)


def test_the_rounding_level_is_that_of_the_whole_matrix() -> None:
    core = torch.diag(torch.tensor([1.0, 1e-14], dtype=torch.float64))
    assert resolved_svd(core, "it", (2, 2), 2).cut == 0
    assert resolved_svd(core, "it", (2, 1000), 2).cut == 1


def test_dense_deltas_and_ranks_that_do_not_pay_have_no_cores() -> None:
    assert cores_of(TaskDeltas([torch.randn(SHAPE)], precision="float64")) is None
    assert cores_of(deltas_of(changes((10, 10)))) is not None
    assert cores_of(deltas_of(changes((10, 11)))) is None


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_factor_that_is_not_finite_is_named_by_its_expert(value: float) -> None:
    parts = changes((2, 2))
    parts[1].right[0, 0] = value
    with pytest.raises(NumericsError, match="expert 1's task delta"):
        cores(parts)
