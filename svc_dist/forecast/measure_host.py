"""Measuring this machine: every kind of work as units do it, one alone and several in parallel, in about a minute.

Products and decompositions are timed in threads of this process, as the inline executor runs units. Element-wise work,
writing and the overhead of a merge come from a small merge by the command itself.
"""

from __future__ import annotations

import functools
import mmap
import os
import platform
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path

import torch

from svc_dist.checkpoint.formats.codecs.fp8_block import Fp8Block
from svc_dist.checkpoint.tensor_view import tensor_view
from svc_dist.forecast.rates import Host, Speed, StorageRates
from svc_dist.forecast.trial_matrix import TrialMatrix, as_in_units
from svc_dist.forecast.trial_merge import TrialMerge, require_writable
from svc_dist.linalg.eigen import symmetric_eigen
from svc_dist.linalg.gram import gram
from svc_dist.linalg.threads import threads_fixed
from svc_dist.run.host import available_memory, cores
from svc_dist.run.inputs.joined import JoinedViews
from svc_dist.storage.access import DEFAULT_ACCESS, Access
from svc_dist.storage.local import LocalStorage

_EIGEN = (256, 512, 1024, 2048)
_PRODUCTS = (1024, 2048)
_BLOCK, _DECODED = 128, 16  # rows of a slab in codes, and how many are decoded to one view
_LEAST, _TURNS = 0.3, 2  # minimal seconds of a measurement, which repeats its work, and number of measurements


def measure_host(
    folder: Path | None = None, threads: int = 1, storage: str | None = None, access: Access = DEFAULT_ACCESS
) -> Host:
    """Rates of this machine for units of ``threads`` threads each.

    ``folder``: on the disk to measure; a subfolder is created and removed. ``storage``: a URL to measure too. Raises
    StorageError, before the measurement if a folder or storage is not writable.
    """
    if storage is not None:
        require_writable(storage, access)
    lanes = max(1, cores() // threads)
    with tempfile.TemporaryDirectory(prefix="svc-dist-", dir=folder) as work:
        trial = TrialMerge(Path(work).absolute(), lanes, threads)
        read = [_cold_read(trial.expert, parallel) for parallel in (1, lanes)]
        one, all_lanes = trial.merge((1, lanes))
        record = _record(LocalStorage(f"{work}/records"))
        remote = trial.on_storage(storage, access) if storage is not None else None
        with threads_fixed(threads):
            alone, crowded = _speeds((1, lanes), threads, (one.computed, all_lanes.computed), work)
    return Host(
        name=platform.node(),
        processor=_processor(),
        measured=time.strftime("%Y-%m-%d", time.gmtime()),
        versions={name: version(name) for name in ("torch", "scipy", "numpy")},
        cores=cores(),
        threads_per_unit=threads,
        lanes=lanes,
        alone=alone,
        crowded=crowded,
        disk=StorageRates(read[0], max(read), one.written, max(one.written, lanes * all_lanes.written)),
        start=one.overhead,
        record=record,
        memory=available_memory(),
        storage_url=storage,
        storage=remote,
    )


def _speeds(lanes: tuple[int, ...], threads: int, elementwise: tuple[float, ...], scratch: str) -> list[Speed]:
    """The speed of one unit when ``lanes`` units compute in parallel, for each of these numbers."""
    codes = _code_rates(scratch, lanes, threads)
    eigen = (_seconds(functools.partial(_decompose, _spectrum(size)), lanes, threads) for size in _EIGEN)
    by_lanes = zip(*eigen, strict=True)
    rates = [_product_rates(kind, lanes, threads) for kind in (torch.float64, torch.float32)]
    speeds = [
        Speed(float64, float32, operations, tuple(zip(_EIGEN, seconds, strict=True)), decode, encode)
        for float64, float32, operations, seconds, decode, encode in zip(
            *rates, elementwise, by_lanes, *codes, strict=True
        )
    ]
    matrix = TrialMatrix()
    whole = _seconds(matrix.merge, lanes, threads)
    return [as_in_units(speed, matrix.work, seconds) for speed, seconds in zip(speeds, whole, strict=True)]


def _product_rates(kind: torch.dtype, lanes: tuple[int, ...], threads: int) -> list[float]:
    seconds = [0.0] * len(lanes)
    for size in _PRODUCTS:
        left = torch.randn(size // 2, size, generator=torch.Generator().manual_seed(0)).to(kind)
        right = torch.randn(size, size, generator=torch.Generator().manual_seed(1)).to(kind)
        new = _seconds(functools.partial(torch.matmul, left, right), lanes, threads)
        seconds = [sum(pair) for pair in zip(seconds, new, strict=True)]
    return [sum(float(size) ** 3 for size in _PRODUCTS) / total for total in seconds]


def _code_rates(scratch: str, lanes: tuple[int, ...], threads: int) -> tuple[list[float], list[float]]:
    """Entries a second of FP8 blocks that one unit decodes, as units do into scratch space, and encodes."""
    codec = Fp8Block((_BLOCK, 16 * _BLOCK), "deepgemm")
    weight = torch.randn(codec.shape, generator=torch.Generator().manual_seed(0)).bfloat16()
    stored = codec.encode(weight)

    def decode() -> None:
        with JoinedViews(scratch) as joined:
            rows = (codec.decode(stored).view(-1) for _ in range(_DECODED))
            joined.view(rows, _DECODED * weight.numel(), "F32").sum()

    decoding, encoding = (_seconds(work, lanes, threads) for work in (decode, lambda: codec.encode(weight)))
    return [_DECODED * weight.numel() / one for one in decoding], [weight.numel() / one for one in encoding]


def _spectrum(size: int) -> torch.Tensor:
    """A Gram matrix such as the sum of some task deltas has: random, of decaying spectrum."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(size, 2 * size, generator=generator) / torch.arange(1, size + 1).sqrt()[:, None]
    return gram(torch.randn(size, size, generator=generator) @ rows)


def _decompose(matrix: torch.Tensor) -> None:
    symmetric_eigen(matrix, "a measurement", dtype=torch.float32)


def _seconds(work: Callable[[], object], lanes: tuple[int, ...], threads: int) -> list[float]:
    """Mean seconds of one call while this many threads repeat it, for each number of ``lanes``.

    The numbers alternate, because a machine's speed drifts.
    """
    turns = [[_once(work, count, threads) for count in lanes] for _ in range(_TURNS)]
    return [statistics.mean(spent) for spent in zip(*turns, strict=True)]


def _once(work: Callable[[], object], lanes: int, threads: int) -> float:
    barrier = threading.Barrier(lanes)

    def lane(_: int) -> float:
        with threads_fixed(threads):
            barrier.wait()
            began, calls = time.perf_counter(), 0
            while calls == 0 or time.perf_counter() - began < _LEAST:
                work()
                calls += 1
            return (time.perf_counter() - began) / calls

    with ThreadPoolExecutor(lanes) as pool:
        return statistics.mean(pool.map(lane, range(lanes)))


def _cold_read(file: Path, parallel: int) -> float:
    """Bytes a second from the disk through mappings, of all threads together; from memory if there is no disk."""
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        size = os.fstat(descriptor).st_size
        share = size // parallel // mmap.ALLOCATIONGRANULARITY * mmap.ALLOCATIONGRANULARITY

        def touch(part: int) -> None:
            mapped = mmap.mmap(descriptor, share, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ, offset=part * share)
            if hasattr(mmap, "MADV_WILLNEED"):
                mapped.madvise(mmap.MADV_WILLNEED)
            tensor_view(memoryview(mapped), "U8")[:: mmap.PAGESIZE].sum()

        began = time.perf_counter()
        with ThreadPoolExecutor(parallel) as pool:
            list(pool.map(touch, range(parallel)))
        return share * parallel / (time.perf_counter() - began)
    finally:
        os.close(descriptor)


def _record(store: LocalStorage) -> float:
    """Seconds of one receipt."""
    spent = []
    for number in range(5):
        began = time.perf_counter()
        store.put(f"receipts/{number}.json", bytes(4096))
        spent.append(time.perf_counter() - began)
    return statistics.median(spent)


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    for line in info.read_text().splitlines() if info.exists() else []:
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
