"""How much memory a piece of work takes at its peak: every allocation counted, or the process watched."""

from __future__ import annotations

import ctypes
import gc
import threading
from pathlib import Path

import pytest
import torch
from torch.autograd.profiler import profile

from svc_dist.linalg.devices import transfer


class CountedMemory:
    """The most memory that torch held at once while the block ran, above what it held before. MiB.

    Exact: every allocation counts, those inside of an operator too, and those of deltas, for which torch is asked here
    in numpy's place. What other libraries take for themselves, and what the C library keeps of freed memory, does not.
    """

    def __enter__(self) -> CountedMemory:
        gc.collect()  # what earlier tests left would be freed meanwhile, and taken off
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(transfer, "_fresh", lambda shape, dtype: torch.empty(shape, dtype=dtype))
        self.profiler = profile(use_kineto=True, profile_memory=True)
        self.profiler.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.profiler.__exit__(*error)
        self.patch.undo()
        events = [event for event in self.profiler.kineto_results.events() if event.name() == "[memory]"]
        held = peak = 0
        for event in sorted(events, key=lambda event: event.start_ns()):
            held += event.nbytes()
            peak = max(peak, held)
        self.mib = peak / 2**20


class PeakMemory:
    """The largest anonymous memory of this process while the block ran, above what it was before. MiB. Sampled."""

    def __enter__(self) -> PeakMemory:
        ctypes.CDLL(None).malloc_trim(0)  # what was freed before must not be had for nothing
        self.before = self.peak = _anonymous()
        self.done = threading.Event()
        self.thread = threading.Thread(target=self._watch)
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.done.set()
        self.thread.join()
        self.mib = (self.peak - self.before) / 2**10

    def _watch(self) -> None:
        while not self.done.wait(0.002):
            self.peak = max(self.peak, _anonymous())


def _anonymous() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0])
