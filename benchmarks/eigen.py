"""Compare symmetric eigendecompositions: the package's three LAPACK steps, and the public routines of scipy and torch.

    python benchmarks/eigen.py [--sizes 1024 2048 4096] [--share 0.4] [--threads 1]

Each row is one routine in a separate process: CPU seconds, peak memory in addition to the matrix, the longest time that
another Python thread waits for the interpreter, the time of two decompositions in two threads divided by that of one,
whether those two give the same bytes as one, and the error of the eigenvectors, ``||A V - V diag(lam)|| / lam_0``.
"""

from __future__ import annotations

import argparse
import ctypes
import multiprocessing
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import scipy.linalg
import torch
from torch import Tensor

from svc_dist.linalg.eigen import symmetric_eigen
from svc_dist.linalg.threads import fix_threads

Pair = tuple[Tensor, Tensor]


def package(matrix: Tensor, count: int) -> Pair:
    values, vectors, _ = symmetric_eigen(matrix, "A", count=count, overwrite=True)
    return values[:count], vectors


def scipy_evr(matrix: Tensor, count: int) -> Pair:
    size = len(matrix)
    values, vectors = scipy.linalg.eigh(
        matrix.numpy().T, driver="evr", overwrite_a=True, check_finite=False, subset_by_index=(size - count, size - 1)
    )
    return torch.from_numpy(values).flip(0), torch.from_numpy(vectors).flip(1)


def scipy_evd(matrix: Tensor, count: int) -> Pair:
    values, vectors = scipy.linalg.eigh(matrix.numpy().T, driver="evd", overwrite_a=True, check_finite=False)
    return torch.from_numpy(values).flip(0)[:count], torch.from_numpy(vectors).flip(1)[:, :count]


def torch_eigh(matrix: Tensor, count: int) -> Pair:
    values, vectors = torch.linalg.eigh(matrix)
    return values.flip(0)[:count], vectors.flip(1)[:, :count]


ROUTINES: dict[str, Callable[[Tensor, int], Pair]] = {
    "svc_dist": package, "scipy evr": scipy_evr, "scipy evd": scipy_evd, "torch": torch_eigh,
}  # fmt: skip


def matrix_of(size: int) -> Tensor:
    """The Gram matrix of a delta with a decaying spectrum."""
    generator = torch.Generator().manual_seed(size)
    left = torch.randn(size, size, generator=generator, dtype=torch.float64)
    rows = left * torch.arange(1, size + 1, dtype=torch.float64) ** -0.5
    return rows @ rows.T


def resident(key: str) -> float:
    """MiB of this process's memory: ``VmHWM`` at its peak, which no thread has to watch."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(key))


def longest_wait(work: Callable[[], object]) -> float:
    """Seconds that this thread had to wait for the interpreter at most while another one works."""
    last, longest = time.perf_counter(), 0.0
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(work)
        while True:
            now = time.perf_counter()
            last, longest = now, max(longest, now - last)
            if waiting.done():
                waiting.result()
                return longest
            time.sleep(0.005)


def measured(name: str, size: int, count: int, threads: int) -> list[str]:
    fix_threads(threads)
    routine = ROUTINES[name]
    small = matrix_of(64)
    routine(small.clone(), 10)  # libraries loaded
    matrix = matrix_of(size)
    given = matrix.clone()
    ctypes.CDLL(None).malloc_trim(0)  # what was freed before must not be had for nothing
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts from here
    before, began, wall = resident("VmHWM"), time.process_time(), time.perf_counter()
    values, vectors = routine(given, count)
    seconds, alone, peak = time.process_time() - began, time.perf_counter() - wall, resident("VmHWM") - before
    del given
    copies = [matrix.clone() for _ in range(3)]
    wait = longest_wait(lambda: routine(copies.pop(), count))
    barrier, wall = threading.Barrier(2), time.perf_counter()

    def beside() -> Tensor:
        barrier.wait()
        return routine(copies.pop(), count)[1]

    with ThreadPoolExecutor(2) as pool:
        results = [future.result() for future in [pool.submit(beside) for _ in range(2)]]
    ratio = (time.perf_counter() - wall) / alone
    same = all(np.array_equal(result.numpy(), vectors.numpy()) for result in results)
    error = float(torch.linalg.norm(matrix @ vectors - vectors * values) / values[0])
    return [name, str(size), str(count), f"{seconds:.1f}", f"{peak:.0f}", f"{wait:.2f}", f"{ratio:.2f}",
            "yes" if same else "NO", f"{error:.0e}"]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1024, 2048, 4096])
    parser.add_argument("--share", type=float, default=0.4, help="of the vectors, beside all of them")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    print("| routine | n | vectors | CPU s | MiB | longest wait s | two threads / one | same bytes | error |")
    print("|---|---|---|---|---|---|---|---|---|")
    for size in given.sizes:
        for count in (size, int(given.share * size)):
            for name in ROUTINES:
                with multiprocessing.get_context("spawn").Pool(1) as pool:
                    row = pool.apply(measured, (name, size, count, given.threads))
                print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
