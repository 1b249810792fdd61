"""The attempts at a unit: from the usual path to the low-memory path on the CPU, by what went wrong."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from svc_dist.errors import DeviceFailedError, UnitsFailedError
from svc_dist.linalg.devices.trouble import Trouble, trouble
from svc_dist.plan.model import Unit
from svc_dist.run_folder.receipt import Receipt
from svc_dist.sizes import format_size

_log = logging.getLogger("svc_dist")


class Attempt(NamedTuple):
    """The device that a unit computes on, and whether methods take their low-memory path."""

    device: str
    low_memory: bool


def attempts(device: str, low_memory: bool = False) -> list[Attempt]:
    """The attempts in order, without the first one for ``low_memory``. The last one of a GPU's unit is on the CPU."""
    every = [Attempt(device, False), Attempt(device, True)] + ([] if device == "cpu" else [Attempt("cpu", True)])
    return every[1:] if low_memory else every


def attempted(unit: Unit, ways: Sequence[Attempt], run: Callable[[Attempt], Receipt]) -> Receipt:
    """Run a unit by the first of these ways that can: where memory runs out, or a library cannot take a matrix.

    Raises DeviceFailedError where the device failed, and UnitsFailedError where no way is left.
    """
    reason = "nothing was tried"
    left = list(ways)
    while left:
        attempt = left.pop(0)
        try:
            return run(attempt)
        except (MemoryError, RuntimeError) as error:
            kind = trouble(error)
            if kind is None or (kind is not Trouble.MEMORY and attempt.device == "cpu"):
                raise
            reason = f"{error}".splitlines()[0] if f"{error}" else type(error).__name__
            if kind is Trouble.SICK:
                raise DeviceFailedError(f"{device_name(attempt.device)} failed: {reason}") from None
        if kind is Trouble.ROUTE:  # with less memory the same library would refuse the same matrix
            left = [way for way in left if way.device != attempt.device]
        release_memory(attempt.device)
        said = "ran out of memory" if kind is Trouble.MEMORY else "has a matrix that a library cannot take"
        _log.warning(f"unit {unit.id} {said} on {attempt.device}: {reason}")
    raise UnitsFailedError(
        f"out of memory on the path that takes least: {reason}",
        f"it takes up to {format_size(unit.memory)}: use a machine with more, or fewer --slots",
    )


def device_name(device: str) -> str:
    """A device as a person knows it; also where its driver no longer answers."""
    try:
        return f"{torch.cuda.get_device_name(device)} ({device})" if device.startswith("cuda") else device
    except (RuntimeError, AssertionError):
        return device


def release_memory(device: str) -> None:
    """Release the memory that Python and torch cache, before the next attempt."""
    gc.collect()
    if device.startswith("cuda"):
        torch.cuda.empty_cache()
