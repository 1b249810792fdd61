"""Jobs in parallel processes with one thread each."""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor

PROCESSES = 2


def together(job: Callable[..., None], arguments: Iterable[tuple[object, ...]], processes: int = PROCESSES) -> None:
    """Run a job with each of the arguments; more threads would spin on a shared machine. One process is this one."""
    if processes == 1:
        one_thread()
        for entry in arguments:
            job(*entry)
        return
    with ProcessPoolExecutor(processes, initializer=_begin) as pool:
        for future in [pool.submit(job, *entry) for entry in arguments]:
            future.result()


_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


def _begin() -> None:
    """One thread, and no life without the parent: else a run that is resumed meets jobs of the one that was killed."""
    one_thread()
    if hasattr(signal, "SIGKILL") and os.uname().sysname == "Linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def one_thread() -> None:
    import torch

    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
