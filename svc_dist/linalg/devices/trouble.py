"""What an error of torch says about the device: its libraries spell one trouble in many ways."""

from __future__ import annotations

import re
from enum import StrEnum

import torch


class Trouble(StrEnum):
    """A class of errors, by what helps."""

    MEMORY = "memory"
    """Memory, the host's or the device's, ran out: the same work may fit on another path or later."""
    ROUTE = "route"
    """A library cannot decompose this matrix: it is too large for it, or it does not converge. Another library can."""
    SICK = "sick"
    """The device or its context failed: nothing more can be computed on it in this process."""


#: In a plain RuntimeError. Libraries that cannot allocate their handle say that they are not initialised.
_MEMORY = re.compile(
    r"DefaultCPUAllocator|not enough memory: you tried to allocate|out of memory|OutOfMemory|MemoryAllocation"
    r"|_STATUS_ALLOC_FAILED"
    r"|(CUBLAS|CUSOLVER|CUSPARSE|CUDNN|HIPBLAS|ROCBLAS)\w*_STATUS_(NOT_INITIALIZED|INTERNAL_ERROR)\b.*"
    r"(\w*Create\b|\w*SetStream|\w*SetWorkspace)|NVML_SUCCESS == r",
    re.DOTALL,
)
_ROUTE = re.compile(
    r"cusolver error|CUSOLVER_STATUS_|MAGMA|hipsolver error|HIPSOLVER_STATUS_|linalg.*(too large|overflow|converge)",
    re.IGNORECASE,
)
_SICK = re.compile(
    r"CUDA(-capable)? (driver )?error|HIP error|CUBLAS_STATUS_|HIPBLAS_STATUS_|CUDNN_STATUS_|NCCL|cudaError|hipError"
    r"|illegal (memory access|instruction|address)|misaligned address|unspecified launch failure|launch timed out"
    r"|ECC error|device-side assert|hardware stack error|invalid program counter|fallen off the bus|GPU is lost"
    r"|device\(?s?\)? (is|are) busy or unavailable|CUDA (context|device) (is|was) (destroyed|lost)",
    re.IGNORECASE,
)


def trouble(error: BaseException) -> Trouble | None:
    """The class of an error; None for what is a bug of the program, such as shapes that do not match."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return Trouble.MEMORY
    if not isinstance(error, RuntimeError):
        return None
    text = f"{error}"
    if isinstance(error, torch.linalg.LinAlgError):  # type: ignore[attr-defined]
        return Trouble.ROUTE
    if _MEMORY.search(text):
        return Trouble.MEMORY
    if _ROUTE.search(text) and not _BEYOND_REPAIR.search(text):
        return Trouble.ROUTE
    accelerator = getattr(torch, "AcceleratorError", None)  # torch 2.8 and later
    if _SICK.search(text) or (accelerator is not None and isinstance(error, accelerator)):
        return Trouble.SICK
    return None


#: What a solver may report although its device has failed.
_BEYOND_REPAIR = re.compile(
    r"illegal (memory access|instruction|address)|launch failure|ECC error|misaligned address", re.IGNORECASE
)
