"""Tensors on their way to a device and back: in the dtype that they have, through pinned memory, block by block."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from svc_dist.linalg.devices.grain import on_the_cpu
from svc_dist.linalg.devices.streams import Pace

STAGED = 64 << 20  # bytes of pinned memory for one block
_pace = Pace(2 * STAGED)


def moved(view: Tensor, dtype: torch.dtype, device: str) -> Tensor:
    """A tensor as ``dtype`` in fresh memory on ``device``, which it reaches in its own dtype: it is cast there."""
    if on_the_cpu(device):
        return _fresh(view.shape, dtype).copy_(view)
    if not on_the_cpu(view.device):
        return torch.empty(view.shape, dtype=dtype, device=device).copy_(view)
    if _is_transposed(view):
        return moved(view.T, dtype, device).T.contiguous()
    return staged(view, torch.empty(view.shape, dtype=dtype, device=device), pin=device.startswith("cuda"))


def sent(view: Tensor, device: str | torch.device) -> Tensor:
    """A tensor on ``device`` in its own dtype and layout; itself where it is there. The copy need not be complete."""
    if on_the_cpu(device) or not on_the_cpu(view.device):
        return view
    if _is_transposed(view):
        return sent(view.T, device).T
    return staged(view, torch.empty(view.shape, dtype=view.dtype, device=device), pin=f"{device}".startswith("cuda"))


def sent_together(views: Sequence[Tensor], device: str | torch.device) -> Tensor:
    """Tensors of one shape and dtype as one on ``device``, in one copy: together they are at most one block."""
    pin = f"{device}".startswith("cuda")
    block = torch.empty((len(views), *views[0].shape), dtype=views[0].dtype, pin_memory=pin)
    result = torch.empty(block.shape, dtype=block.dtype, device=device)
    result.copy_(torch.stack(list(views), out=block), non_blocking=pin)
    if pin:
        _pace.began(result.device, block.nbytes)
    return result


def staged(view: Tensor, result: Tensor, pin: bool) -> Tensor:
    """``result``, which ``view`` is copied and cast into block by block; ``pin``: each through pinned memory."""
    source, target = view.reshape(-1), result.view(-1)
    step = max(1, STAGED // view.element_size())
    for start in range(0, source.numel(), step):
        block = source[start : start + step]
        block = block.pin_memory() if pin else block.clone()
        if result.dtype != block.dtype:
            target[start : start + step] = block.to(result.device, non_blocking=pin)
        else:
            target[start : start + step].copy_(block, non_blocking=pin)
        if pin:
            _pace.began(result.device, block.nbytes)
    return result


def received(values: Tensor, whole: int = 1) -> Iterator[Tensor]:
    """A flat tensor of a device in the host's memory, in pieces, each in fresh memory: one, unless it is large.

    ``whole``: entries that stay together.
    """
    step = max(1, STAGED // (values.element_size() * whole)) * whole
    for start in range(0, values.numel(), step):
        piece = values[start : start + step]
        host = torch.empty(piece.shape, dtype=piece.dtype, pin_memory=values.device.type == "cuda")
        yield host.copy_(piece)


def _is_transposed(view: Tensor) -> bool:
    return view.dim() == 2 and not view.is_contiguous() and view.T.is_contiguous()


def _fresh(shape: torch.Size, dtype: torch.dtype) -> Tensor:
    """Memory for a tensor, from numpy: the aligned blocks that torch asks for leave holes in the C library's heap.

    glibc before 2.38 does not find such a hole for the next block of the same size, and a heap so grows with every
    delta: with the number of experts.
    """
    return torch.from_numpy(np.empty(shape.numel() * dtype.itemsize, np.uint8)).view(dtype).view(shape)
