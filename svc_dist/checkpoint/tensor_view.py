"""Mapped bytes seen as a torch tensor."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from svc_dist.checkpoint.dtype import FLOAT_DTYPES, torch_dtype

# Input mappings are read-only on purpose; torch warns once that it cannot express that.
warnings.filterwarnings("ignore", message="The given buffer is not writable")


def tensor_view(data: memoryview, dtype: str) -> Tensor:
    """A flat, read-only view: of the storage dtype for weights, of bytes for everything else."""
    kind = torch_dtype(dtype) if dtype in FLOAT_DTYPES else torch.uint8
    return torch.frombuffer(data, dtype=kind) if data.nbytes else torch.empty(0, dtype=kind)
