"""The attempts at a unit when memory runs out: from the usual path to the low-memory path on the CPU."""

from __future__ import annotations

import gc
from typing import NamedTuple

import torch

#: Messages of torch in a plain RuntimeError: of its allocator on the CPU, and of CUDA and its libraries.
_MESSAGES = (
    "DefaultCPUAllocator",
    "not enough memory: you tried to allocate",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUSOLVER_STATUS_ALLOC_FAILED",
)


class Attempt(NamedTuple):
    """The device that a unit computes on, and whether methods take their low-memory path."""

    device: str
    low_memory: bool


def attempts(device: str, low_memory: bool = False) -> list[Attempt]:
    """The attempts in order, without the first one for ``low_memory``. The last one of a GPU's unit is on the CPU."""
    every = [Attempt(device, False), Attempt(device, True)] + ([] if device == "cpu" else [Attempt("cpu", True)])
    return every[1:] if low_memory else every


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory, the host's or a device's, ran out."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _MESSAGES)


def release_memory(device: str) -> None:
    """Release the memory that Python and torch cache, before the next attempt."""
    gc.collect()
    if device.startswith("cuda"):
        torch.cuda.empty_cache()
