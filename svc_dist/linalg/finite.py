"""Tensors without NaN and infinities."""

from __future__ import annotations

import torch
from torch import Tensor

from svc_dist.errors import NumericsError


def require_finite(tensor: Tensor, what: str) -> None:
    """Raise NumericsError when ``tensor`` holds a NaN or an infinity."""
    if not all_finite(tensor):
        raise NumericsError(f"{what} has entries that are not finite")


def all_finite(tensor: Tensor) -> bool:
    """Whether every entry is finite; one pass, no temporary of the tensor's size."""
    if tensor.numel() == 0 or not tensor.is_floating_point():
        return True
    low, high = torch.aminmax(tensor)
    return bool(torch.isfinite(low) & torch.isfinite(high))


def same_bytes(one: Tensor, *others: Tensor) -> bool:
    """Whether flat tensors hold the same bits: a NaN is itself, and 0 is not -0."""
    data = one.view(torch.uint8)
    return all(other.dtype == one.dtype and torch.equal(data, other.view(torch.uint8)) for other in others)
