"""CUDA as this process finds it: which GPU, which build of torch, and where it cannot be used, why."""

from __future__ import annotations

import re
from importlib.metadata import version
from pathlib import Path

from svc_dist.errors import RecipeError

_DRIVER = Path("/proc/driver/nvidia/version")
_FILES = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")  # that the drivers of GPUs make


def has_driver() -> bool:
    """Whether the driver of a GPU runs here. Imports no torch."""
    return any(Path(path).exists() for path in _FILES)


def usable() -> bool:
    """Whether torch can compute on a GPU here."""
    import torch

    return torch.cuda.is_available() and torch.cuda.device_count() > 0


def torch_build() -> str:
    """The installed build of torch, such as ``2.13.0+cu130``: its libraries decide the last bits of results."""
    return version("torch")


def gpu_name() -> str:
    """The kind of the first GPU that this process sees."""
    import torch

    return torch.cuda.get_device_name(0)


def memory_of_each() -> list[int]:
    """The bytes of each GPU that this process sees. Raises RecipeError where torch can use none."""
    import torch

    if not usable():
        raise RecipeError(f"torch can use no GPU here: {why_unusable()}", code="cuda-unusable")
    return [torch.cuda.get_device_properties(number).total_memory for number in range(torch.cuda.device_count())]


def limit_memory(share: int) -> None:
    """Have this process fail to allocate more than so many bytes of its GPU, before others there run out of memory."""
    import torch

    torch.cuda.set_per_process_memory_fraction(min(1.0, share / memory_of_each()[0]))


def why_unusable(driver_file: Path = _DRIVER) -> str:
    """Why torch cannot use a GPU here: the driver, the installed build of torch, and what torch says."""
    import torch

    built_for = torch.version.cuda or torch.version.hip
    wheel = f"torch {torch_build()} is built for {f'CUDA {built_for}' if built_for else 'the CPU only'}"
    driver = _driver_version(driver_file)
    runs = f"the driver is {driver}" if driver else "no NVIDIA driver runs here"
    return "; ".join([wheel, runs, *filter(None, [_what_torch_says() if built_for else ""])])


def _driver_version(file: Path) -> str | None:
    try:
        match = re.search(r"Kernel Module(?: for \S+)?\s+([\d.]+)", file.read_text())
    except OSError:
        return None
    return match and match[1]


def _what_torch_says() -> str:
    """The error of CUDA's start in torch, which names a driver that is too old, or a GPU that is too new."""
    import torch

    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
        torch.zeros(1, device="cuda")
    except (RuntimeError, AssertionError) as error:
        return f"{error}".splitlines()[0]
    return "" if torch.cuda.device_count() else "CUDA_VISIBLE_DEVICES hides every GPU"
