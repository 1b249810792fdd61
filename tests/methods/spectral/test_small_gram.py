"""SWUDI through the Gram matrix of the stacked deltas: the closed form's result, also where experts are zero."""

from __future__ import annotations

import pytest
import torch

from svc_dist.methods.deltas import TaskDeltas
from svc_dist.methods.spectral.filters import swudi_filter
from svc_dist.methods.spectral.small_gram import from_small_gram, streamed_from_small_gram
from tests.support import spectral_references as plain
from tests.support.spectral_cases import error, fine_tunes, run, stack, taken


@pytest.mark.parametrize("init", ["sum", "mean", "zero"])
@pytest.mark.parametrize("ratio", [0.02, 0.2, 1.0])
def test_the_small_gram_matrix_gives_the_same_result(init: str, ratio: float) -> None:
    models = fine_tunes(20, 300, 4)  # 80 rows in all
    truth = plain.swudi(stack(taken(models, "float64")), rank_ratio=ratio, init=init)
    assert error(run("swudi", taken(models, "float64"), rank_ratio=ratio, init=init).delta, truth) <= 1e-8
    assert error(run("swudi", taken(models, "mixed"), rank_ratio=ratio, init=init).delta, truth) <= 1e-5


@pytest.mark.parametrize("solve", [from_small_gram, streamed_from_small_gram])
@pytest.mark.parametrize("shape", [(10, 200), (33, 100)], ids=str)
def test_both_forms_give_the_closed_form_for_each_time(solve: object, shape: tuple[int, int]) -> None:
    deltas = taken(fine_tunes(*shape, 3), "float64")
    results = list(solve(deltas, "sum", swudi_filter(shape[1], [10.0, 300.0], 0.2)))  # type: ignore[operator]
    for time, merged in zip((10.0, 300.0), results, strict=True):
        truth = plain.swudi(stack(deltas), exp_time=time, rank_ratio=0.2)
        assert error(merged.delta, truth) <= 1e-8


@pytest.mark.parametrize("solve", [from_small_gram, streamed_from_small_gram])
def test_an_expert_equal_to_the_base_adds_nothing(solve: object) -> None:
    base, *experts = fine_tunes(10, 200, 2)
    with_zero = TaskDeltas([*experts, base], base, precision="float64")
    chosen = swudi_filter(200, [300.0], 0.1)
    (merged,) = solve(with_zero, "sum", chosen)  # type: ignore[operator]
    (without,) = solve(taken([base, *experts], "float64"), "sum", chosen)  # type: ignore[operator]
    assert error(merged.delta, without.delta) <= 1e-12
    assert not torch.equal(without.delta, torch.zeros_like(without.delta))
