"""Adding up task deltas: plain sums and sums of those that agree in sign, against loops that say what is meant."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from svc_dist.methods.elementwise import consensus
from svc_dist.methods.elementwise.consensus import elected_sum, weighted_sum


def parts(count: int = 3, numel: int = 400) -> list[Tensor]:
    """Some entries are zero, so that ties and empty ballots occur."""
    generator = torch.Generator().manual_seed(count)
    drawn = [torch.randn(numel, generator=generator, dtype=torch.float64) for _ in range(count)]
    return [part * (torch.rand(numel, generator=generator) > 0.3) for part in drawn]


def elected(given: Sequence[Tensor], weight: Sequence[float], normalize: bool) -> Tensor:
    """Entry by entry, as the paper reads."""
    result = []
    for entries in zip(*(part.tolist() for part in given), strict=True):
        votes = [share * entry for share, entry in zip(weight, entries, strict=True)]
        sign = 1 if sum(votes) >= 0 else -1
        agreeing = [(vote, share) for vote, share in zip(votes, weight, strict=True) if vote * sign > 0]
        total = sum(share for _, share in agreeing)
        result.append(sum(vote for vote, _ in agreeing) / (total if normalize and total else 1.0))
    return torch.tensor(result, dtype=torch.float64)


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("weight", [[1.0, 1.0, 1.0], [0.3, 0.3, 0.3], [0.2, 1.0, 3.0]])
def test_an_elected_sum_is_the_papers(weight: list[float], normalize: bool) -> None:
    given = parts()
    merged = elected_sum([part.clone() for part in given], weight, normalize)
    assert torch.allclose(merged, elected(given, weight, normalize), atol=1e-12)


def test_a_tie_elects_plus() -> None:
    ones = torch.tensor([1.0, -1.0, 0.0], dtype=torch.float32)
    assert elected_sum([ones, -ones], [1.0, 1.0], normalize=False).tolist() == [1.0, 1.0, 0.0]


def test_scales_move_entries_but_not_the_weights_that_are_divided_by() -> None:
    given = parts()
    scaled = elected_sum([part.clone() for part in given], [1.0] * 3, True, [2.0, 0.5, 1.0])
    by_hand = elected([given[0] * 2, given[1] / 2, given[2]], [1.0] * 3, True)
    assert torch.allclose(scaled, by_hand, atol=1e-12)
    halved = weighted_sum([torch.ones(2), torch.ones(2)], [1.0, 3.0], True, [2.0, 2.0])
    assert halved.tolist() == [2.0, 2.0]


def test_a_weighted_sum_divides_only_by_what_is_not_zero() -> None:
    given = parts(2)
    halves = weighted_sum([part.clone() for part in given], [1.0, 3.0], normalize=True)
    assert torch.allclose(halves, given[0] / 4 + given[1] * 3 / 4)
    cancelled = weighted_sum([part.clone() for part in given], [1.0, -1.0], normalize=True)
    assert torch.equal(cancelled, given[0] - given[1])


def test_nothing_to_add_up_is_an_error() -> None:
    for function in (consensus.weighted_sum, consensus.elected_sum):
        with pytest.raises(ValueError, match="no deltas"):
            function([], [], False)


@pytest.mark.parametrize("weights", [[0.1, 0.2, -0.3], [0.7, -0.4, -0.3], [1e6 + 0.3, -1e6, -0.3]])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_weights_that_cancel_but_for_rounding_are_not_divided_by(weights: list[float], dtype: torch.dtype) -> None:
    def agreeing() -> list[Tensor]:  # once they are weighted
        return [torch.tensor([1.0, 2.0], dtype=dtype) * (1 if weight > 0 else -1) for weight in weights]

    for merge in (weighted_sum, elected_sum):
        assert torch.equal(merge(agreeing(), weights, True), merge(agreeing(), weights, False))
