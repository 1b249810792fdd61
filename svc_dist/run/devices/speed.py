"""How fast a device is, measured by itself before its first unit: what deadlines are made from."""

from __future__ import annotations

import time

import torch

from svc_dist.linalg.devices.trouble import trouble

_SIZE = 768
_FLOPS = 9.0  # times the cube of the size, as plans count a decomposition


def measured_speed(device: str) -> float | None:
    """Operations a second of a small eigendecomposition in float64: the slowest that units are made of.

    None where this cannot be measured. Raises RuntimeError of a device that is out of memory or fails.
    """
    try:
        matrix = torch.randn(_SIZE, _SIZE, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).to(device)
        matrix = matrix + matrix.T
        torch.linalg.eigvalsh(matrix[:32, :32])  # loads the library
        began = time.perf_counter()
        float(torch.linalg.eigh(matrix).eigenvalues[0])  # waits for the device
        return _FLOPS * _SIZE**3 / (time.perf_counter() - began)
    except (RuntimeError, AssertionError) as error:
        if trouble(error) is not None:
            raise
        return None
