"""What this machine has: cores and devices."""

from __future__ import annotations

import os
from pathlib import Path

from svc_dist.errors import RecipeError
from svc_dist.plan.settings import Device, Settings, SettingsRequest
from svc_dist.run.placement import PER_DEVICE

_CONTEXT = 512 << 20  # bytes of a GPU that each process on it keeps for CUDA and its libraries; an estimate


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def detect_device() -> str:
    """``cuda`` where torch can use one, else ``cpu``. Imports torch only where a device file hints at a GPU."""
    if not any(Path(path).exists() for path in ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")):
        return "cpu"
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def settings_here(request: SettingsRequest, recorded: Settings | None, cluster: bool = False) -> Settings:
    """Complete settings for a run on this machine, or on a ``cluster``, whose nodes have devices of their own.

    Raises RecipeError when the run needs a CUDA device and this machine has none.
    """
    settings = request.resolve(recorded, detect_device)
    if settings.device == Device.CUDA and not cluster and detect_device() != Device.CUDA:
        raise RecipeError(
            "device is cuda, but torch can use no CUDA device here", "leave out --device, or say --device cpu"
        )
    return settings


def default_slots(settings: Settings) -> int:
    """Units at once: two per GPU; on the CPU as many as its cores carry, at least two (one reads, one computes)."""
    if settings.device.startswith("cuda"):
        return PER_DEVICE * device_count(settings.device)
    return max(2, cores() // settings.threads_per_unit)


def device_memory(device: str) -> int | None:
    """Bytes for units on the smallest device of a kind here; None for the CPU, whose memory is the machine's."""
    if not device.startswith("cuda"):
        return None
    import torch

    smallest = min(torch.cuda.get_device_properties(n).total_memory for n in range(torch.cuda.device_count()))
    return max(0, smallest - PER_DEVICE * _CONTEXT)


def device_count(device: str) -> int:
    """Devices of a kind on this machine; the CPU counts as one."""
    if not device.startswith("cuda"):
        return 1
    import torch

    return torch.cuda.device_count()
