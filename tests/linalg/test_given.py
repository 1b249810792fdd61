"""Whatever a caller hands to the Python functions by mistake is named."""

from __future__ import annotations

import pytest
import torch

from svc_dist.errors import RecipeError
from svc_dist.linalg.given import given_deltas, given_tensor

DELTAS = [torch.ones(2, 3), torch.ones(2, 3)]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (torch.ones(2, 2, 3), "deltas is one tensor"),
        (None, "deltas is of type NoneType"),
        ([], "deltas is empty"),
        ([DELTAS[0], None], r"deltas\[1\] is of type NoneType"),
        ([delta.numpy() for delta in DELTAS], r"deltas\[0\] is of type ndarray"),
        ([delta.tolist() for delta in DELTAS], r"deltas\[0\] is of type list"),
        ([DELTAS[0], torch.ones(3, 2)], r"deltas\[1\] has shape \[3, 2\], but must have shape \[2, 3\]"),
        ([DELTAS[0].to_sparse()], "must be dense"),
        ([DELTAS[0].to("meta")], "must be dense"),
        ([DELTAS[0].long()], "has dtype int64, but must have one of float64, float32, float16, bfloat16"),
        ([DELTAS[0] + 1j], "has dtype complex64"),
    ],
)
def test_wrong_deltas_are_named(given: object, said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        given_deltas(given)


def test_any_iterable_of_tensors_will_do_and_their_history_is_left_behind() -> None:
    assert len(given_deltas(delta for delta in DELTAS)) == 2
    assert not given_tensor(torch.ones(2, requires_grad=True), "it").requires_grad
