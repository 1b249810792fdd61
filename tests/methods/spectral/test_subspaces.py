"""TSV-M, Iso-C, Iso-CTS and STAR: the properties that their papers promise of the merged spectrum."""

from __future__ import annotations

import pytest
import torch

from svc_dist.methods.deltas import TaskDeltas
from svc_dist.methods.spectral.subspaces import iso_c, iso_cts, star, tsv_m
from tests.support import spectral_references as plain
from tests.support.spectral_cases import adapters, error, fine_tunes, run, stack, taken


def test_a_direction_between_the_cuts_is_lifted_in_float64_only() -> None:
    # The weakest direction, 3e-7 of the strongest, is above float64's rounding level but not above that of float32
    # entries: in mixed it stays out, and the receipt says so. All others agree.
    generator = torch.Generator().manual_seed(1)
    left, right = (torch.linalg.qr(torch.randn(64, 64, generator=generator, dtype=torch.float64))[0] for _ in range(2))
    values = torch.cat([torch.linspace(1, 0.1, 63, dtype=torch.float64), torch.tensor([3e-7], dtype=torch.float64)])
    delta = (left * values) @ right.T
    exact, mixed = (run("iso_c", TaskDeltas([delta], precision=precision)) for precision in ("float64", "mixed"))
    assert (exact.summary["cut"], mixed.summary["cut"]) == (0, 1)
    without = exact.delta - exact.delta @ torch.outer(right[:, -1], right[:, -1])
    assert error(mixed.delta, without * (mixed.summary["sigma"][0] / exact.summary["sigma"][0])) <= 1e-5


def strongly_shared(experts: int, ratio: float) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(experts)
    left, right = (torch.randn(96, 1, generator=generator, dtype=torch.float64) / 96**0.5 for _ in range(2))
    rest = (torch.randn(96, 96, generator=generator, dtype=torch.float64) / 96**0.5 / ratio for _ in range(experts))
    return [(left @ right.T + one).float() for one in rest]


@pytest.mark.parametrize("precision", ["float64", "mixed", "fast"])
@pytest.mark.parametrize(("experts", "ratio"), [(8, 1e3), (16, 1e4), (8, 1e5)])
def test_tsv_m_keeps_what_little_tells_experts_apart_that_share_a_strong_direction(
    experts: int, ratio: float, precision: str
) -> None:
    deltas = strongly_shared(experts, ratio)
    truth = plain.tsv_m(torch.stack(deltas).double())
    merged = run("tsv_m", TaskDeltas(deltas, precision=precision))
    assert merged.summary["cut"] == 0
    assert error(merged.delta, truth) <= 1e-4


def test_tsv_m_keeps_the_experts_leading_singular_values() -> None:
    deltas = taken(fine_tunes(30, 40, 3), "float64")
    merged = tsv_m(deltas)
    leading = torch.cat([torch.linalg.svdvals(delta)[:10] for delta in stack(deltas)]).sort(descending=True).values
    assert error(torch.linalg.svdvals(merged.delta), leading) <= 1e-10
    assert merged.summary["kept_rank"] == 30


def test_tsv_m_of_more_experts_than_directions_keeps_one_of_each() -> None:
    deltas = taken(fine_tunes(4, 9, 6), "float64")
    assert tsv_m(deltas).summary["kept_rank"] == 6
    assert torch.linalg.matrix_rank(tsv_m(deltas).delta) <= 4


def test_iso_c_and_iso_cts_are_flat_and_iso_c_keeps_the_nuclear_norm() -> None:
    deltas = taken(fine_tunes(30, 40, 3), "float64")
    sums = torch.linalg.svdvals(stack(deltas).sum(0))
    values = torch.linalg.svdvals(iso_c(deltas).delta)
    assert error(values, torch.full_like(values, float(sums.mean()))) <= 1e-10
    spread = torch.linalg.svdvals(iso_cts(deltas, common_space_fraction=0.5).delta)
    assert float(spread.max() - spread.min()) <= 1e-9 * float(spread.max())


def test_iso_cts_with_all_space_in_common_is_iso_c() -> None:
    deltas = taken(fine_tunes(30, 40, 3), "float64")
    assert error(iso_cts(deltas, common_space_fraction=1.0).delta, iso_c(deltas).delta) <= 1e-9


@pytest.mark.parametrize("eta", [1.0, 40.0, 100.0])
def test_star_keeps_each_experts_nuclear_norm(eta: float) -> None:
    deltas = taken(fine_tunes(30, 40, 1), "float64")
    merged = star(deltas, eta=eta)
    nuclear = torch.linalg.svdvals(stack(deltas)[0]).sum()
    assert float(torch.linalg.svdvals(merged.delta).sum()) == pytest.approx(float(nuclear), rel=1e-10)
    assert merged.summary["kept_ranks"][0] == {1.0: 1, 100.0: 30}.get(eta, merged.summary["kept_ranks"][0])


def test_directions_that_adapters_do_not_have_are_cut_and_counted() -> None:
    deltas = TaskDeltas(adapters(40, 60, (2, 3)), precision="float64")
    merged = tsv_m(deltas)
    assert (merged.summary["kept_rank"], merged.summary["cut"]) == (5, 35)
    assert iso_c(deltas).summary["cut"] == 35
