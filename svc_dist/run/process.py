"""Settings of the process that units run in: numbers of threads, rounding, and how the C library frees memory.

They are permanent in a worker process and in the command's. A process that calls the library gets all of its settings
back, and those that cannot be restored do not change.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from contextlib import AbstractContextManager

from svc_dist.methods.chunking import CHUNK
from svc_dist.plan.settings import Settings

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # <malloc.h>


def set_up_worker(settings: Settings) -> None:
    """Set up a worker process, before its first unit."""
    from svc_dist.linalg.threads import fix_threads

    return_freed_memory()
    fix_threads(settings.threads_per_unit)


def set_up_for_units(settings: Settings) -> AbstractContextManager[None]:
    """Apply a plan's settings to this process until the ``with`` ends; see ``threads_fixed``.

    Each thread that runs a unit enters it too: it may outlive the thread that started it.
    """
    from svc_dist.linalg.threads import threads_fixed

    return threads_fixed(settings.threads_per_unit)


def return_freed_memory() -> None:
    """Make the C library return blocks larger than a chunk as soon as they are freed (only glibc). Permanent.

    By default it caches blocks of up to 32 MiB, in one heap per thread: a process that works on one matrix after
    another then holds several times the memory that each needs. Chunks of element-wise arithmetic stay cached: there
    are hundreds of thousands of them, and each would cause page faults again. Torch asks for huge pages for the blocks
    that come fresh from the system every time: with small ones a calibration took up to a third longer.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # torch looks once, when it first needs memory
    if sys.platform == "linux":
        with contextlib.suppress(AttributeError, OSError):
            libc = ctypes.CDLL(None)
            libc.mallopt(_M_MMAP_THRESHOLD, 5 * CHUNK)  # a chunk in float32 takes 4 * CHUNK bytes
            libc.mallopt(_M_TRIM_THRESHOLD, 32 << 20)
