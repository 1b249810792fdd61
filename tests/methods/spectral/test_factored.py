"""Every method on cores gives what it gives on the deltas that they stand for."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from svc_dist.methods.deltas import TaskDeltas
from svc_dist.methods.low_rank import LowRank
from svc_dist.methods.merged import Merged
from svc_dist.methods.spectral import factored
from svc_dist.methods.spectral.cores import Cores, cores_of
from tests.support.spectral_cases import error, run

SHAPE = (40, 60)


@pytest.fixture
def parts() -> list[LowRank]:
    random = torch.Generator().manual_seed(3)
    return [
        LowRank(torch.randn(SHAPE[0], r, generator=random), torch.randn(r, SHAPE[1], generator=random), 0.1)
        for r in (3, 5, 4)
    ]


@pytest.fixture
def cores(parts: list[LowRank]) -> Cores:
    made = cores_of(TaskDeltas([None] * 3, changes=parts, precision="float64", shape=SHAPE))
    assert made is not None
    return made


@pytest.fixture
def experts(parts: list[LowRank]) -> list[Tensor]:
    return [part.scale * (part.left.double() @ part.right.double()) for part in parts]


def spread(cores: Cores, merged: Merged) -> Tensor:
    wide = cores.spread(merged.delta)
    return wide.left @ wide.right


def test_sums_are_weighted_and_normalised_as_they_are_elsewhere(cores: Cores, experts: list[Tensor]) -> None:
    weight = [0.2, 0.3, 1.0]
    total = sum(share * delta for share, delta in zip(weight, experts, strict=True))
    plain = factored.task_arithmetic(cores, weight=weight, normalize=False)
    assert error(spread(cores, plain), total) <= 1e-12
    divided = factored.task_arithmetic(cores, weight=weight, normalize=True)
    assert error(spread(cores, divided), total / 1.5) <= 1e-12
    with_base = factored.linear(cores, weight=weight, base_weight=0.5, normalize=True)
    assert error(spread(cores, with_base), total / 2.0) <= 1e-12


@pytest.mark.parametrize(
    ("name", "merge"),
    [
        ("tsv_m", factored.tsv_m),
        ("iso_c", factored.iso_c),
        ("swudi_a", lambda cores: factored.swudi_a(cores, rank_rule="entropy", init="sum")),
    ],
)
def test_each_method_gives_what_it_gives_on_dense_deltas(
    name: str, merge: Callable[[Cores], Merged], cores: Cores, experts: list[Tensor]
) -> None:
    given = {"rank_rule": "entropy", "init": "sum"} if name == "swudi_a" else {}
    dense = run(name, TaskDeltas(experts, precision="float64"), **given)
    merged = merge(cores)
    assert error(spread(cores, merged), dense.delta) <= 1e-8
    assert merged.summary["kept_rank"] == dense.summary["kept_rank"]


@pytest.mark.parametrize("init", ["sum", "mean", "zero"])
def test_swudi_gives_each_time_from_one_decomposition(init: str, cores: Cores, experts: list[Tensor]) -> None:
    times = [10.0, 300.0]
    for time, merged in zip(
        times, factored.swudi(cores, exp_time=times, rank_ratio=0.1, init=init), strict=True
    ):  # fmt: skip
        dense = run("swudi", TaskDeltas(experts, precision="float64"), exp_time=time, rank_ratio=0.1, init=init)
        assert error(spread(cores, merged), dense.delta) <= 1e-8
