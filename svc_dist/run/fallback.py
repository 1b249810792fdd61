"""Ways to do a unit, from the usual one to the one that takes least memory, for when memory runs out."""

from __future__ import annotations

import gc
from typing import NamedTuple

import torch

#: What torch says in a plain RuntimeError: its allocator on the CPU, and CUDA and its libraries beside its allocator.
_SAID = (
    "DefaultCPUAllocator",
    "not enough memory: you tried to allocate",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUSOLVER_STATUS_ALLOC_FAILED",
)


class Way(NamedTuple):
    """Where a unit computes, and whether methods are asked for their path of least memory."""

    device: str
    low_memory: bool


def ways(device: str, low_memory: bool = False) -> list[Way]:
    """The ways to try, in order; without the usual one for ``low_memory``. A GPU's unit ends on the CPU."""
    found = [Way(device, False), Way(device, True)] + ([] if device == "cpu" else [Way("cpu", True)])
    return found[1:] if low_memory else found


def ran_out(error: BaseException) -> bool:
    """Whether an error says that memory, the host's or a device's, ran out."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _SAID)


def let_go(device: str) -> None:
    """Give back what is kept for later, before a unit is tried in another way."""
    gc.collect()
    if device.startswith("cuda"):
        torch.cuda.empty_cache()
