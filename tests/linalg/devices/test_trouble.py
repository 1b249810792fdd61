"""Errors are classed by what helps, in all the spellings of torch and of the libraries behind it."""

from __future__ import annotations

import pytest
import torch

from svc_dist.linalg.devices.trouble import Trouble, trouble

MEMORY = (
    "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported at some other API call",
    "CUDA out of memory. Tried to allocate 20.00 GiB",
    "HIP out of memory. Tried to allocate 20.00 GiB",
    "CUDA driver error: out of memory",
    "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`",
    "CUDA error: CUBLAS_STATUS_INTERNAL_ERROR when calling `cublasCreate(handle)`",
    "cusolver error: CUSOLVER_STATUS_ALLOC_FAILED, when calling `cusolverDnCreate(handle)`",
    "cusolver error: CUSOLVER_STATUS_INTERNAL_ERROR, when calling `cusolverDnCreate(handle)`",
    "cusolver error: CUSOLVER_STATUS_NOT_INITIALIZED, when calling `cusolverDnCreate(handle)`. If you keep seeing this",
    "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
    'NVML_SUCCESS == r INTERNAL ASSERT FAILED at "CUDACachingAllocator.cpp":838, please report a bug to PyTorch.',
    "[enforce fail at alloc_cpu.cpp:124] data. DefaultCPUAllocator: can't allocate memory: you tried to allocate 8",
)
ROUTE = (
    "cusolver error: CUSOLVER_STATUS_INVALID_VALUE, when calling `cusolverDnXsyevd_bufferSize(handle, params, ...)`",
    "cusolver error: CUSOLVER_STATUS_INTERNAL_ERROR, when calling `cusolverDnDsyevd(handle, jobz, uplo, n, A, lda, W)`",
    "cusolver error: CUSOLVER_STATUS_EXECUTION_FAILED, when calling `cusolverDnDgesvd(...)`",
    "linalg.eigh: The algorithm failed to converge because the input matrix is ill-conditioned",
)
SICK = (
    "CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be asynchronously reported",
    "CUDA error: uncorrectable ECC error encountered",
    "CUDA error: unspecified launch failure",
    "CUDA error: misaligned address",
    "CUDA error: device-side assert triggered",
    "CUDA error: all CUDA-capable devices are busy or unavailable",
    "CUDA error: the launch timed out and was terminated",
    "CUDA error: unknown error",
    "CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasDgemm( handle, opa, opb, m, n, k)`",
    "cusolver error: CUSOLVER_STATUS_INTERNAL_ERROR: an illegal memory access was encountered",
    "HIP error: invalid device function",
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [(text, kind) for kind, texts in zip(Trouble, (MEMORY, ROUTE, SICK), strict=True) for text in texts],
)
def test_a_spelling(text: str, expected: Trouble) -> None:
    assert trouble(RuntimeError(text)) is expected


def test_types_of_errors() -> None:
    assert trouble(torch.OutOfMemoryError("CUDA out of memory")) is Trouble.MEMORY
    assert trouble(MemoryError()) is Trouble.MEMORY
    assert trouble(torch.linalg.LinAlgError("linalg.eigh: (Batch element 0): 7")) is Trouble.ROUTE  # type: ignore[attr-defined]
    assert trouble(torch.AcceleratorError("anything")) is Trouble.SICK


def test_errors_that_torch_raises_here() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60)
    assert trouble(caught.value) is Trouble.MEMORY
    with pytest.raises(RuntimeError) as caught:
        torch.ones(2) @ torch.ones(3)
    assert trouble(caught.value) is None
    assert trouble(ValueError("CUDA error")) is None
