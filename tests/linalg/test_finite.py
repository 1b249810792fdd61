"""NaN and infinities are seen wherever they are, and what cannot hold any is finite."""

from __future__ import annotations

import math

import pytest
import torch

from svc_dist.errors import NumericsError
from svc_dist.linalg.finite import all_finite, require_finite


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_one_entry_is_enough(dtype: torch.dtype, value: float) -> None:
    tensor = torch.zeros(7, 9, dtype=dtype)
    assert all_finite(tensor)
    tensor[6, 8] = value
    assert not all_finite(tensor)
    with pytest.raises(NumericsError, match="the sum has entries that are not finite"):
        require_finite(tensor, "the sum")


def test_a_nan_between_infinities_and_the_largest_numbers_are_told_apart() -> None:
    assert all_finite(torch.tensor([torch.finfo(torch.float32).max, torch.finfo(torch.float32).min]))
    assert not all_finite(torch.tensor([math.inf, math.nan, -math.inf]))


def test_empty_tensors_and_integers_are_finite() -> None:
    assert all_finite(torch.empty(0, 3))
    assert all_finite(torch.tensor([1, 2**62]))
    require_finite(torch.empty(0), "nothing")
