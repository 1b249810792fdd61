"""Jobs in parallel processes with one thread each."""

from __future__ import annotations

import os
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
    with ProcessPoolExecutor(processes, initializer=one_thread) as pool:
        for future in [pool.submit(job, *entry) for entry in arguments]:
            future.result()


def one_thread() -> None:
    import torch

    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
