"""Tensors that a caller hands to the Python functions: checked before anything is computed."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from svc_dist.errors import RecipeError

_DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def given_tensor(value: object, what: str) -> Tensor:
    """A dense tensor of real numbers without its history. Raises RecipeError naming ``what`` for anything else."""
    if not isinstance(value, Tensor):
        raise RecipeError(f"{what} is of type {type(value).__name__}, but must be a torch tensor")
    if value.layout != torch.strided or value.device.type == "meta":
        raise RecipeError(f"{what} is a {value.layout} tensor on {value.device}, but must be dense", "use .to_dense()")
    if value.dtype not in _DTYPES:
        allowed = ", ".join(str(dtype).removeprefix("torch.") for dtype in _DTYPES)
        raise RecipeError(f"{what} has dtype {str(value.dtype).removeprefix('torch.')}, but must have one of {allowed}")
    return value.detach()


def given_deltas(
    deltas: object, shape: tuple[int, ...] | None = None, device: torch.device | None = None
) -> list[Tensor]:
    """One or more deltas of one shape on one device (default: those of the first). Raises RecipeError."""
    if isinstance(deltas, Tensor):
        raise RecipeError("deltas is one tensor, but must be a list of one per expert", "use list(deltas) of a stack")
    if not isinstance(deltas, Iterable):
        raise RecipeError(f"deltas is of type {type(deltas).__name__}, but must be a list of tensors")
    checked = [given_tensor(delta, f"deltas[{index}]") for index, delta in enumerate(deltas)]
    if not checked:
        raise RecipeError("deltas is empty, but must hold one tensor per expert")
    shape, device = shape or tuple(checked[0].shape), device or checked[0].device
    for index, delta in enumerate(checked):
        if tuple(delta.shape) != shape:
            raise RecipeError(f"deltas[{index}] has shape {list(delta.shape)}, but must have shape {list(shape)}")
        if delta.device != device:
            raise RecipeError(f"deltas[{index}] is on {delta.device}, but must be on {device}")
    return checked
