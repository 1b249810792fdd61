"""The rank rules of SWUDI-A against their definitions."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from svc_dist.errors import RecipeError
from svc_dist.methods.registry import METHODS
from svc_dist.methods.spectral.rank_rules import RULES, marchenko_pastur_median, rank

RULE = METHODS["swudi_a"].parameter("rank_rule")
NAMES = [*RULES, "gavish_donoho", "cumvar_0.9"]


@pytest.mark.parametrize("name", [*RULES, "cumvar_1"])
def test_equal_eigenvalues_all_count(name: str) -> None:
    assert rank(name, torch.ones(12, dtype=torch.float64), (24, 12)) == 12


@pytest.mark.parametrize("name", [*RULES, "cumvar_0.9"])
def test_one_eigenvalue_above_all_others_counts_alone(name: str) -> None:
    values = torch.full((12,), 1e-60, dtype=torch.float64)
    values[0] = 1
    assert rank(name, values, (24, 12)) == 1


def test_rules_give_what_their_formulas_give() -> None:
    values = torch.tensor([4.0, 2.0, 1.0, 1.0], dtype=torch.float64)
    share = values / 8
    roots = values.sqrt()
    assert rank("participation", values, (8, 4)) == math.ceil(64 / 22)
    assert rank("participation_sqrt", values, (8, 4)) == math.ceil(float(roots.sum() ** 2 / 8))
    assert rank("entropy", values, (8, 4)) == math.ceil(math.exp(-float((share * share.log()).sum())))
    assert rank("stable_rank", values, (8, 4)) == math.ceil(22 / 16)
    assert [rank(f"cumvar_{q}", values, (8, 4)) for q in ("0.5", "0.51", "0.75", "0.9", "1")] == [1, 2, 2, 4, 4]


@settings(deadline=None, derandomize=True, max_examples=50)
@given(st.lists(st.floats(1e-8, 1), min_size=1, max_size=40), st.integers(1, 80), st.sampled_from(NAMES))
def test_a_rank_is_between_one_and_all(values: list[float], rows: int, name: str) -> None:
    spectrum = torch.tensor(sorted(values, reverse=True), dtype=torch.float64)
    assert 1 <= rank(name, spectrum, (rows, len(values))) <= len(values)


def test_the_optimal_threshold_for_a_square_matrix_is_the_published_one() -> None:
    """Gavish & Donoho 2014, table IV."""
    for aspect, omega in ((1.0, 2.8582), (0.5, 2.1711), (0.1, 1.6089)):
        best = math.sqrt(2 * (aspect + 1) + 8 * aspect / (aspect + 1 + math.sqrt(aspect**2 + 14 * aspect + 1)))
        assert best / math.sqrt(marchenko_pastur_median(aspect)) == pytest.approx(omega, abs=2e-4)


def test_the_optimal_threshold_finds_the_signal_in_noise() -> None:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(400, 200, generator=generator, dtype=torch.float64)
    signal = 40.0 * torch.linalg.qr(torch.randn(400, 5, generator=generator, dtype=torch.float64))[0]
    matrix = noise + signal @ torch.linalg.qr(torch.randn(200, 5, generator=generator, dtype=torch.float64))[0].T * 2
    values = torch.linalg.svdvals(matrix).square()
    assert rank("gavish_donoho", values, (400, 200)) == 5


def test_the_median_splits_the_spectrum_of_noise() -> None:
    generator = torch.Generator().manual_seed(1)
    values = torch.linalg.svdvals(torch.randn(900, 300, generator=generator, dtype=torch.float64)).square() / 900
    assert float(values.quantile(0.5)) == pytest.approx(marchenko_pastur_median(1 / 3), rel=0.01)


@pytest.mark.parametrize("value", ["participation", "gavish_donoho", "cumvar_0.95", "cumvar_.5", "cumvar_1"])
def test_the_registry_takes_every_rule(value: str) -> None:
    assert RULE is not None
    assert RULE.check(value, "swudi_a") == value


@pytest.mark.parametrize("value", ["", "rank", "cumvar_", "cumvar_0.0", "cumvar_1.5", "cumvar_x", "cumvar_-1"])
def test_the_registry_refuses_any_other(value: str) -> None:
    assert RULE is not None
    with pytest.raises(RecipeError, match=r"rank_rule is .* must be one of .*cumvar_<share>"):
        RULE.check(value, "swudi_a")
