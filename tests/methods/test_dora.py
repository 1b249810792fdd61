"""DoRA is ``m (W + s B A) / ||W + s B A||``, by rows or by columns, in every way that a method may ask for it."""

from __future__ import annotations

import pytest
import torch

from svc_dist.methods.dora import Rescaled, gains_of
from svc_dist.methods.low_rank import LowRank


@pytest.mark.parametrize("by_column", [False, True])
def test_it_is_its_formula(by_column: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    weight, left, right = (
        torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in ((6, 5), (6, 2), (2, 5))
    )
    magnitude = torch.rand(5 if by_column else 6, generator=generator, dtype=torch.float64)
    merged = weight + 3.0 * left @ right
    norms = merged.norm(dim=0 if by_column else 1, keepdim=True)
    expected = (magnitude.view_as(norms) * merged / norms - weight).reshape(-1)
    added = LowRank(left, right, 3.0)
    change = Rescaled(weight, added, gains_of(weight, added, magnitude, by_column))

    def same(made: torch.Tensor, expected: torch.Tensor) -> bool:
        return torch.allclose(made, expected, rtol=1e-12, atol=1e-14)

    assert same(change.dense(torch.float64, "cpu"), expected)
    assert same(change.chunk(7, 23).chunk(2, 9).dense(torch.float64, "cpu"), expected[9:16])
    positions = torch.tensor([29, 3, 11])
    picked = change.chunk(2, 30).pick(positions - 2)
    assert same(picked.dense(torch.float64, "cpu"), expected[positions])
    assert same(picked.chunk(1, 3).dense(torch.float64, "cpu"), expected[positions[1:]])
    part = change.part(slice(1, 4), slice(2, 5))
    assert same(part.dense(torch.float64, "cpu"), expected.view(6, 5)[1:4, 2:5].reshape(-1))
    assert same(part.chunk(2, 7).dense(torch.float64, "cpu"), expected.view(6, 5)[1:4, 2:5].reshape(-1)[2:7])
    turned = change.transposed()
    assert same(turned.dense(torch.float64, "cpu"), expected.view(6, 5).T.reshape(-1))
    assert same(turned.chunk(3, 20).dense(torch.float64, "cpu"), expected.view(6, 5).T.reshape(-1)[3:20])
    assert same(change.chunk(10, 25).transposed().dense(torch.float64, "cpu"), expected.view(6, 5)[2:5].T.reshape(-1))
    assert not change.is_zero()


def test_the_lengths_of_some_rows_do_not_depend_on_the_others() -> None:
    generator = torch.Generator().manual_seed(0)
    weight, left, right = (torch.randn(*shape, generator=generator) for shape in ((6, 5), (6, 2), (2, 5)))
    whole = gains_of(weight, LowRank(left, right), torch.ones(6), False).values
    some = gains_of(weight[2:4], LowRank(left[2:4], right), torch.ones(2), False).values
    assert torch.allclose(some, whole[2:4], rtol=1e-12)
