"""Time the partial eigensolver and the full decomposition if few directions are kept, and compare their results.

    python benchmarks/partial.py --size 4096

The inputs are four experts of ``size x size``. *swudi* computes the leading eigenvectors of C (``rank_ratio`` 0.1 and
below), then the whole method. *tsv_m* computes the leading left singular vectors of one delta (the top 1/K for many
experts). "Outside" is the largest component of a partial result's vector outside the span of the full result; if two
directions at the cutoff are about equally strong, either may be kept. *All* is the decomposition with every vector;
*kept* is the one with only the kept vectors, which methods use if a Krylov space is not faster; *Krylov* is the
partial eigensolver.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch import Tensor

from svc_dist.linalg import eigen as linalg
from svc_dist.linalg.eigen import Eigen, leading_eigen, leading_gram_eigen, symmetric_eigen
from svc_dist.linalg.gram import gram
from svc_dist.linalg.threads import fix_threads
from svc_dist.methods.deltas import TaskDeltas
from svc_dist.methods.spectral import swudi
from svc_dist.methods.spectral.normal_equations import normal_matrix
from tests.support.spectral_cases import fine_tunes, run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=4096)
    parser.add_argument("--swudi", nargs="*", type=float, default=[0.1, 0.01], help="rank ratios")
    parser.add_argument("--tsv-m", nargs="*", type=int, default=[16, 32], help="numbers of experts")
    parser.add_argument("--method", type=float, help="also time the whole of swudi, with this rank ratio")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--cpu-time", action="store_true", help="measure CPU time: for one thread on a shared machine")
    given = parser.parse_args()
    fix_threads(given.threads)
    clock = time.process_time if given.cpu_time else time.perf_counter
    models = fine_tunes(given.size, given.size, 4)
    deltas = TaskDeltas(models[1:], models[0])
    normal = normal_matrix(deltas) if given.swudi else deltas[0]
    for ratio in given.swudi:
        count = max(1, round(ratio * given.size))
        every = spent(lambda: symmetric_eigen(normal.double(), "C", overwrite=True), clock)
        compare(f"C, {count} of {given.size}", lambda count=count: leading_eigen(normal, count, "C"), every, clock)
    for experts in given.tsv_m:
        count, delta = given.size // experts, deltas[0]

        def left(count: int = count, delta: Tensor = delta) -> Eigen:
            return leading_gram_eigen(delta, count, "a delta", torch.float64)

        every = spent(lambda delta=delta: symmetric_eigen(gram(delta), "a delta", overwrite=True), clock)
        compare(f"one delta, {count} of {given.size}", left, every, clock)
    if given.method is not None:
        results, seconds = both(lambda: run("swudi", deltas, rank_ratio=given.method).delta, clock)
        apart = float(torch.linalg.vector_norm(results[0] - results[1]) / torch.linalg.vector_norm(results[0]))
        print(f"swudi, rank_ratio {given.method:g}: {said(seconds)}; results differ by {apart:.1e}")


def spent(action: Callable[[], object], clock: Callable[[], float]) -> float:
    began = clock()
    action()
    return clock() - began


def compare(what: str, solve: Callable[[], Eigen], every: float, clock: Callable[[], float]) -> None:
    (full, partial), seconds = both(solve, clock)
    count = partial.vectors.shape[1]
    values = float((partial.values[:count] - full.values[:count]).abs().max() / full.values[0])
    outside = partial.vectors - full.vectors @ (full.vectors.T @ partial.vectors)
    print(
        f"{what}: all {every:.2f} s ({every / seconds[1]:.2f}), {said(seconds)}; "
        f"eigenvalues differ by {values:.1e} of the largest, outside "
        f"{float(torch.linalg.vector_norm(outside, dim=0).max()):.1e}",
        flush=True,
    )


def both(action: Callable[[], Tensor | Eigen], clock: Callable[[], float]) -> tuple[list, list[float]]:  # type: ignore[type-arg]
    """The results of ``action`` with full decompositions and with partial ones, and the seconds of each."""
    results, seconds = [], []
    for context in (full_only(), nullcontext()):
        with context:
            began = clock()
            results.append(action())
            seconds.append(clock() - began)
    return results, seconds


def said(seconds: list[float]) -> str:
    return f"kept {seconds[0]:.2f} s ({seconds[0] / seconds[1]:.2f}), Krylov {seconds[1]:.2f} s"


@contextmanager
def full_only() -> Iterator[None]:
    before = linalg.krylov_pays
    linalg.krylov_pays = swudi.krylov_pays = lambda size, count: False
    try:
        yield
    finally:
        linalg.krylov_pays = swudi.krylov_pays = before


if __name__ == "__main__":
    main()
