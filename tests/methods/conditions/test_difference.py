"""Relative differences worked out by hand, and which blocks of a tensor results merge."""

from __future__ import annotations

import math

import pytest
import torch

from svc_dist.methods.apply import ResultParameters, merged_chunks
from svc_dist.methods.chunking import CHUNK
from svc_dist.methods.conditions.difference import Differing, relative_differences
from svc_dist.methods.deltas import Copy, TaskDeltas
from svc_dist.methods.low_rank import LowRank
from svc_dist.methods.registry import METHODS

BASE = torch.tensor([3.0, 0.0, 0.0, 4.0])  # of norm 5
NEAR, FAR = torch.tensor([3.0, 1.0, 0.0, 4.0]), torch.tensor([0.0, 0.0, 4.0, 4.0])  # 1 and 5 away


def test_the_norm_of_a_difference_is_divided_by_that_of_the_base() -> None:
    assert relative_differences(TaskDeltas([NEAR, FAR], BASE)) == [0.2, 1.0]
    assert relative_differences(TaskDeltas([NEAR.bfloat16(), FAR.double()], BASE.half())) == [0.2, 1.0]
    assert relative_differences(TaskDeltas([BASE.clone(), None], BASE)) == [0.0, 0.0]


def test_it_is_the_same_whatever_the_size_of_the_weights_and_of_the_tensor() -> None:
    big = [one.repeat(CHUNK) * 1e-3 for one in (NEAR, FAR, BASE)]  # several chunks
    assert relative_differences(TaskDeltas(big[:2], big[2])) == pytest.approx([0.2, 1.0], rel=1e-6)


def test_a_base_of_zeros_and_what_is_not_finite() -> None:
    zero = torch.zeros(4)
    assert relative_differences(TaskDeltas([NEAR, zero.clone()], zero)) == [math.inf, 0.0]
    broken = Differing(TaskDeltas([torch.tensor([math.nan, 0, 0, 0]), BASE], BASE), [0.5], 4)
    assert broken.merges(0) == [True], "the merge then names the damaged input"


def test_what_an_adapter_adds_counts() -> None:
    added = LowRank(torch.tensor([[1.0], [0.0]]), torch.tensor([[0.0, 1.0]]), 1.0)  # one entry of 1
    assert relative_differences(TaskDeltas([None], BASE, changes=[added])) == [0.2]


def test_a_tensor_is_merged_where_some_expert_exceeds_the_threshold() -> None:
    deltas = TaskDeltas([NEAR, BASE.clone()], BASE)
    asked = Differing(deltas, [0.19, 0.2, None, 0.0], 4)
    assert asked.merges(0) == [True, False, True, True], "0.2 does not exceed 0.2"
    assert asked.records("w") == [{"tensor": "w", "differences": [0.2, 0.0], "merged": [True, False, True, True]}]
    assert asked.records("w", (0, 2))[0]["models"] == [0, 2]


def test_without_a_condition_nothing_is_measured() -> None:
    never = Differing(TaskDeltas([NEAR], BASE), [None, None], 4)
    assert never.merges(0) == [True, True]
    assert never.records("w") == []
    assert [*never] == [(0, 4)]


def test_each_matrix_of_a_fused_tensor_decides_for_itself() -> None:
    deltas = TaskDeltas([torch.cat([NEAR, FAR])], torch.cat([BASE, BASE]))
    asked = Differing(deltas, [0.5], 4, 6)
    assert [*asked] == [(0, 4), (4, 8)]
    assert [asked.merges(start) for start, _ in asked] == [[False], [True]]
    assert [(one["matrix"], one["differences"]) for one in asked.records("w")] == [(6, [0.2]), (7, [1.0])]


def results_of(method: str, least: list[float | None], calibrated: bool = False) -> list[torch.Tensor]:
    """Two matrices of 4 x 4 of one tensor, merged by a method: the merged delta of each result, 0 where it is None."""
    generator = torch.Generator().manual_seed(1)
    base = torch.randn(32, generator=generator)
    change = torch.randn(2, 32, generator=generator) * torch.tensor([0.01] * 16 + [1.0] * 16)
    deltas = TaskDeltas([base + one for one in change[: METHODS[method].experts[1] or 2]], base, row=4)
    parameters = METHODS[method].complete(len(deltas), {})
    parameters.pop("lambda", None)
    calibration = {"method": "svc", "alpha": 0.5, "side": "left"} if calibrated else None
    results = [ResultParameters(parameters, calibration)] * len(least)
    batch = (2, 4, 4) if calibrated or METHODS[method].family == "spectral" else None
    differing = Differing(deltas, least, 16, 0)
    merged = [torch.zeros(32) for _ in least]
    for index, (start, end, delta, _) in merged_chunks(deltas, method, results, batch, (), False, differing):
        if isinstance(delta, Copy):
            merged[index][start:end] = deltas.chunk(start, end)[delta.expert]
        elif delta is not None:
            assert isinstance(delta, torch.Tensor)
            merged[index][start:end] = delta
    return merged


@pytest.mark.parametrize("method", [name for name, one in METHODS.items() if one.base != "none"])
def test_every_method_merges_what_differs_and_leaves_the_rest(method: str) -> None:
    free, bound, none = results_of(method, [None, 0.1, 100.0])
    assert bool(free[16:].any())
    assert torch.equal(bound[16:], free[16:])
    assert not bool(bound[:16].any())
    assert not bool(none.any())


def test_calibration_too() -> None:
    free, bound, none = results_of("task_arithmetic", [None, 0.1, 100.0], calibrated=True)
    assert torch.equal(bound[16:], free[16:])
    assert bool(bound[16:].any())
    assert not bool(bound[:16].any())
    assert not bool(none.any())
