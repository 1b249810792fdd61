"""The three levels of precision, and the dtypes that they compute in."""

from __future__ import annotations

import functools

import torch

PRECISIONS = ("mixed", "fast", "float64")


def compute_dtype(precision: str) -> torch.dtype:
    """The dtype that deltas are formed in and that most products run in."""
    return torch.float64 if precision == "float64" else torch.float32


@functools.cache
def coefficient_dtype(precision: str, device: str) -> torch.dtype:
    """The dtype for products that only yield coefficients (never entries of the result)."""
    if precision == "fast":
        native = torch.cuda.is_bf16_supported() if device.startswith("cuda") else torch.cpu._is_avx512_bf16_supported()
        if native:
            return torch.bfloat16
    return compute_dtype(precision)
