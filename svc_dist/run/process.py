"""What units need of the process that they run in: numbers of threads, rounding, and a C library that returns memory.

A worker process, and the command's own, are set up for good. In a process that calls the library all that can be
restored is restored, and the rest is left alone.
"""

from __future__ import annotations

import contextlib
import ctypes
import sys
from contextlib import AbstractContextManager

from svc_dist.methods.chunking import CHUNK
from svc_dist.plan.settings import Settings

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # <malloc.h>


def set_up_worker(settings: Settings) -> None:
    """Set up a worker process, before its first unit."""
    from svc_dist.linalg.threads import fix_threads

    return_freed_memory()
    fix_threads(settings.threads_per_unit, _tf32(settings))


def set_up_for_units(settings: Settings) -> AbstractContextManager[None]:
    """Hold what a plan's units compute with in force in this process; see ``threads_fixed``.

    Each thread that runs a unit enters it too: it may outlive the one that started it.
    """
    from svc_dist.linalg.threads import threads_fixed

    return threads_fixed(settings.threads_per_unit, _tf32(settings))


def return_freed_memory() -> None:
    """Have the C library return blocks larger than a chunk as soon as they are freed (glibc; elsewhere: nothing).

    By default it learns to keep blocks of up to 32 MiB for later, in one heap per thread: a process that works on one
    matrix after another then holds several times what any of them needs. The chunks of element-wise arithmetic come and
    go by the hundred thousand: those are kept, or every one of them would be faulted in anew. This cannot be undone.
    """
    if sys.platform == "linux":
        with contextlib.suppress(AttributeError, OSError):
            libc = ctypes.CDLL(None)
            libc.mallopt(_M_MMAP_THRESHOLD, 5 * CHUNK)  # a chunk in float32 takes 4 * CHUNK bytes
            libc.mallopt(_M_TRIM_THRESHOLD, 32 << 20)


def _tf32(settings: Settings) -> bool | None:
    """Whether CUDA products of float32 may round to TF32; None where there is no CUDA."""
    return settings.precision == "fast" if settings.device.startswith("cuda") else None
