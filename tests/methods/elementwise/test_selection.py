"""Exact selection by rank: always exactly so many entries, whatever the sample says."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from svc_dist.methods.deltas import TaskDeltas
from svc_dist.methods.elementwise import selection
from svc_dist.methods.elementwise.selection import NOTHING, Cut, cuts, magnitude
from tests.support.elementwise_references import trimmed


def kept(delta: Tensor, rank: int, precision: str = "mixed") -> Tensor:
    deltas = TaskDeltas([delta], precision=precision)
    (cut,) = cuts(deltas, [rank], [0], magnitude)
    return deltas[0] if cut is None else cut.keep(deltas[0], 0)


def gaussian(numel: int, seed: int = 0) -> Tensor:
    return torch.randn(numel, generator=torch.Generator().manual_seed(seed))


def on_a_grid(numel: int, seed: int = 0) -> Tensor:
    """Differences of bfloat16 weights: a third are zero, most of the rest one of a few values."""
    base = gaussian(numel, seed).mul_(0.02).bfloat16()
    return (base.float() + gaussian(numel, seed + 1).mul_(1e-4)).bfloat16().float() - base.float()


@given(st.lists(st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.0, -2.0, 1e-40]), min_size=1, max_size=40), st.data())
def test_small_tensors_with_ties_keep_the_first_of_the_equal(values: list[float], data: st.DataObject) -> None:
    delta = torch.tensor(values)
    rank = data.draw(st.integers(0, len(values)))
    assert torch.equal(kept(delta, rank), trimmed(delta, 0, rank))


@pytest.mark.parametrize("make", [gaussian, on_a_grid])
@pytest.mark.parametrize("precision", ["mixed", "float64"])
@pytest.mark.parametrize("share", [1e-6, 0.003, 0.2, 0.5, 0.61, 0.9, 0.999999])
def test_large_tensors_keep_exactly_so_many(make, precision: str, share: float) -> None:
    delta = make(700_001)
    rank = int(share * delta.numel())
    assert torch.equal(kept(delta, rank, precision).float(), trimmed(delta, 0, rank))


def test_one_pass_is_enough_for_ordinary_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selection, "_radix", lambda *_: pytest.fail("the sample misled the search"))
    for make in (gaussian, on_a_grid):
        for share in (0.01, 0.2, 0.5, 0.9):
            kept(make(700_001), int(share * 700_001))


@pytest.mark.parametrize("precision", ["mixed", "float64"])
def test_a_sample_that_misleads_costs_time_but_not_exactness(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    delta = gaussian(300_000)
    monkeypatch.setattr(TaskDeltas, "sample", lambda self, size: self.chunk(0, 1000))
    delta[:1000] *= 100  # the sample sees outliers only
    for rank in (17, 60_000, 299_999):
        assert torch.equal(kept(delta, rank, precision).float(), trimmed(delta, 0, rank))


def test_a_pass_that_would_collect_too_much_is_split(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selection, "COLLECTED", 1)
    deltas = TaskDeltas([gaussian(300_000, seed) for seed in range(3)])
    found = cuts(deltas, [1000, None, 5], [0, 1, 2], magnitude)
    assert found[1] is None
    for index, rank in ((0, 1000), (2, 5)):
        assert torch.equal(found[index].keep(deltas[index], 0), trimmed(deltas[index], 0, rank))


def test_a_cut_does_not_depend_on_where_pieces_begin() -> None:
    delta = on_a_grid(300_000)
    deltas = TaskDeltas([delta])
    (cut,) = cuts(deltas, [100_000], [0], magnitude)
    assert 0 < cut.until < delta.numel()
    whole = cut.keep(delta, 0)
    for step in (7_919, 131_072, cut.until):
        parts = [cut.keep(delta[start : start + step], start) for start in range(0, delta.numel(), step)]
        assert torch.equal(torch.cat(parts), whole)


def test_the_input_is_left_alone() -> None:
    delta = gaussian(1000)
    before = delta.clone()
    Cut(0.5, 0).keep(delta, 0)
    NOTHING.keep(delta, 0)
    assert torch.equal(delta, before)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("numel", [1000, 300_000])
@pytest.mark.parametrize("share", [0.0, 1e-5, 0.2, 0.99])
def test_what_is_not_finite_is_never_trimmed_away(bad: float, numel: int, share: float) -> None:
    delta = gaussian(numel)
    delta[numel // 3] = bad
    assert not torch.isfinite(kept(delta, int(share * numel))[numel // 3])


def test_a_tensor_of_nan_ends_the_search() -> None:
    assert bool(kept(torch.full((300_000,), math.nan), 1000).isnan().all())


@settings(max_examples=50)
@given(st.integers(1, 64), st.floats(allow_nan=False, width=32))
def test_just_below_a_threshold_keeps_the_threshold_itself(numel: int, value: float) -> None:
    values = torch.full((numel,), value)
    threshold = float(values[0].abs())
    assert torch.equal(Cut(threshold, numel).keep(values, 0), values)
    if math.isfinite(threshold) and threshold:
        assert not Cut(threshold, 0).keep(values, 0).any()


def test_samples_of_a_matrix_see_all_its_columns() -> None:
    columns = torch.arange(96).repeat(4096, 1).float()
    seen = TaskDeltas([columns]).sample(1 << 14)[0]
    assert len(np.unique(seen.numpy())) == 96


@pytest.mark.parametrize("until", [0, 40, 100])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_entries_cut_in_their_own_memory_are_the_same(until: int, dtype: torch.dtype) -> None:
    values = torch.randint(-3, 4, (100,), generator=torch.Generator().manual_seed(1)).to(dtype)
    values[7] = torch.nan
    cut = Cut(2.0, until)
    expected = cut.keep(values, 0)
    found = cut.keep(values, 0, overwrite=True)
    assert torch.equal(found.nan_to_num(99), expected.nan_to_num(99))
    assert (found.data_ptr() == values.data_ptr()) is (until != 40)  # a border inside takes two cuts
