"""The attempts at a unit: from the usual path to the low-memory path on the CPU, by what went wrong."""

from __future__ import annotations

import gc
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import NamedTuple, TypeVar

import torch

from svc_dist.errors import DeviceFailedError, DeviceTooSmallError, UnitsFailedError
from svc_dist.linalg.devices.streams import own_stream
from svc_dist.linalg.devices.trouble import Trouble, trouble
from svc_dist.plan.model import Plan, Unit
from svc_dist.run.host import available_memory, cores
from svc_dist.run.pipeline.needs import Needs
from svc_dist.sizes import format_size

Result = TypeVar("Result")

_log = logging.getLogger("svc_dist")
_cores = threading.Condition()
_busy = [0]  # cores that units of GPUs hold


class Attempt(NamedTuple):
    """The device that a unit computes on, and whether methods take their low-memory path."""

    device: str
    low_memory: bool


def ways_of(
    needs: Needs, unit: Unit, low_memory: bool = False, has_host: bool = True, on_host: bool = False
) -> list[Attempt]:
    """The attempts at a unit of a plan: on the CPU only, for one that does so on any device."""
    if needs.on_host(unit):
        return attempts("cpu", low_memory)
    return attempts(needs.plan.settings.device, low_memory, has_host, on_host)


def attempts(device: str, low_memory: bool = False, has_host: bool = True, on_host: bool = False) -> list[Attempt]:
    """The attempts in order, without the first one for ``low_memory``.

    The last one of a GPU's unit is on the CPU, unless the process has no host's cores (``has_host``); ``on_host``: it
    is the only one.
    """
    host = [Attempt("cpu", True)]
    if device != "cpu" and on_host:
        return host
    every = [Attempt(device, False), Attempt(device, True)] + (host if device != "cpu" and has_host else [])
    return every[1:] if low_memory else every


def attempted(plan: Plan, unit: Unit, ways: Sequence[Attempt], run: Callable[[Attempt], Result]) -> Result:
    """Run a unit by the first of these ways that can: where memory runs out, or a library cannot take a matrix.

    Raises DeviceFailedError where the device failed, DeviceTooSmallError where no way is left but the CPU's, which is
    none of these, and UnitsFailedError where none is left at all.
    """
    reason = "nothing was tried"
    left = list(ways)
    while left:
        attempt = left.pop(0)
        try:
            idle = idle_cores(plan, unit) if attempt.device == "cpu" != ways[0].device else nullcontext()
            with idle, own_stream(attempt.device):
                return run(attempt)
        except (MemoryError, RuntimeError) as error:
            kind = trouble(error)
            if kind is None or (kind is not Trouble.MEMORY and attempt.device == "cpu"):
                raise
            reason = f"{error}".splitlines()[0] if f"{error}" else type(error).__name__
            if kind is Trouble.SICK:
                raise DeviceFailedError(
                    f"{device_name(attempt.device)} failed: {reason}",
                    "run the same command again to resume; if the same GPU fails again, leave it out with "
                    "CUDA_VISIBLE_DEVICES",
                ) from None
        if kind is Trouble.ROUTE:  # with less memory the same library would refuse the same matrix
            left = [way for way in left if way.device != attempt.device]
        release_memory(attempt.device)
        said = "ran out of memory" if kind is Trouble.MEMORY else "has a matrix that a library cannot take"
        _log.warning(f"unit {unit.id} {said} on {attempt.device}: {reason}")
    if ways[-1].device != "cpu":
        raise DeviceTooSmallError(f"the unit does not fit onto its GPU: {reason}")
    raise UnitsFailedError(
        f"out of memory on the path that takes least: {reason}",
        f"it takes up to {format_size(unit.memory)}: use a machine with more, or fewer --slots",
    )


@contextmanager
def idle_cores(plan: Plan, unit: Unit) -> Iterator[None]:
    """Hold as many cores of this machine as a unit takes that does not fit onto its GPU; waits for them.

    Raises UnitsFailedError where the machine has too little memory for it.
    """
    threads = plan.settings.threads_per_unit
    with _cores:
        _cores.wait_for(lambda: _busy[0] == 0 or _busy[0] + threads <= cores())
        _busy[0] += threads
    try:
        if (available := available_memory()) < unit.memory:
            raise UnitsFailedError(
                f"the unit does not fit onto the GPU; on the CPU it takes up to {format_size(unit.memory)}, and "
                f"{format_size(available)} of memory is available",
                "use a GPU or a machine with more memory, or fewer --slots",
            )
        yield
    finally:
        with _cores:
            _busy[0] -= threads
            _cores.notify_all()


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
