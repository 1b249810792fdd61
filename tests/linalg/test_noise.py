"""How strong directions are that errors alone make."""

from __future__ import annotations

import pytest
import torch

from svc_dist.linalg.noise import Noise


def noise(deviations: torch.Tensor) -> Noise:
    return Noise(deviations.square().sum(1), deviations.square().sum(0))


@pytest.mark.parametrize("shape", [(200, 200), (400, 100), (100, 400)], ids=str)
@pytest.mark.parametrize("spread", [0.0, 1.0])
@pytest.mark.parametrize("rank", [0, 5, 60])
def test_directions_of_errors_are_below_their_level_and_others_above_it(
    shape: tuple[int, int], spread: float, rank: int
) -> None:
    generator = torch.Generator().manual_seed(rank)
    deviations = torch.exp(spread * torch.randn(shape[0], 1, generator=generator, dtype=torch.float64)).expand(shape)
    signal = torch.randn(shape[0], rank, generator=generator).double() @ torch.randn(rank, shape[1]).double()
    errors = torch.randn(shape, generator=generator, dtype=torch.float64) * deviations
    left, values, right = torch.linalg.svd(100 * signal + errors, full_matrices=False)
    above = values > noise(deviations).levels(left, right)
    assert above[:rank].all()
    assert not above[rank:].any()


def test_directions_that_are_taken_out_take_room_from_the_errors() -> None:
    flat = noise(torch.ones(100, 100, dtype=torch.float64))
    levels = flat.mean_levels(100)
    assert float(levels[0]) == pytest.approx(1.1 * 20)
    assert float(levels[75]) == pytest.approx(1.1 * 10)
    left = torch.eye(100, dtype=torch.float64)[:, :2]
    assert torch.allclose(flat.levels(left, left.T), levels[:2])
    assert float(flat.without(75).mean_levels(1)) == pytest.approx(1.1 * 15)


def test_independent_errors_add_their_variances_and_turn_with_the_matrix() -> None:
    one, other = noise(torch.full((2, 3), 3.0)), noise(torch.full((2, 3), 4.0))
    assert (one + other).rows.tolist() == [75.0, 75.0]
    assert (one + other).T.rows.tolist() == [50.0, 50.0, 50.0]
