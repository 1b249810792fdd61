"""Time the element-wise methods and plain forms of them on one large bfloat16 tensor, in nanoseconds per entry.

    python benchmarks/elementwise.py [--entries 100000000] [--experts 3] [--methods ties dare_ties]

The number of entries is the total over all experts. The package's form runs on one core, then on two tensors in
parallel in two threads, as in a merge. The plain forms hold whole tensors, sort them fully, and may use every core.
"""

from __future__ import annotations

import argparse
import os
import threading
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from svc_dist.linalg.threads import fix_threads
from svc_dist.methods.apply import ResultParameters, merged_chunks
from svc_dist.methods.deltas import TaskDeltas
from svc_dist.methods.elementwise.selection import cuts, magnitude
from svc_dist.methods.registry import METHODS
from svc_dist.run.process import return_freed_memory

OPTIONS: dict[str, dict[str, Any]] = {
    "linear": {"base_weight": 0.0},
    "ties": {"density": 0.2},
    "breadcrumbs": {"density": 0.8},
    "breadcrumbs_ties": {"density": 0.8},
    "dare_linear": {"density": 0.2},
    "dare_ties": {"density": 0.2},
    "della": {"density": 0.2, "epsilon": 0.1},
    "della_linear": {"density": 0.2, "epsilon": 0.1},
    "sce": {"select_topk": 0.2},
}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--entries", type=int, default=100_000_000)
    arguments.add_argument(
        "--plain-entries", type=int, default=20_000_000, help="entries for the plain forms; 0 skips them"
    )
    arguments.add_argument("--experts", type=int, default=3)
    arguments.add_argument("--columns", type=int, default=2048)
    elementwise = [name for name, method in METHODS.items() if method.family == "elementwise" and name != "passthrough"]
    arguments.add_argument("--methods", nargs="*", default=elementwise, choices=elementwise)
    given = arguments.parse_args()
    return_freed_memory()  # as in a merge
    base, experts = models(given.entries, given.columns, given.experts)

    fix_threads(1)
    print(f"{'':24} {'one thread':>12} {'two threads':>12}   ns per delta entry (two threads: entries of both tensors)")
    rank = int(0.2 * base.numel())
    deltas = TaskDeltas(experts, base)
    report("threshold of top 20 %", base.numel(), lambda: cuts(deltas, [rank], [0], magnitude))
    for name in given.methods:
        count = METHODS[name].experts[1] or len(experts)
        taken, parameters = TaskDeltas(experts[:count], base, tensor="w"), complete(name, count)

        def merge(name: str = name, taken: TaskDeltas = taken, parameters: dict[str, Any] = parameters) -> None:
            for _ in merged_chunks(taken, name, [ResultParameters(parameters)]):
                pass

        report(name, base.numel() * count, merge)

    rows = given.plain_entries // given.columns
    if rows:
        fix_threads(os.cpu_count() or 1)
        base, experts = base[:rows], [expert[:rows] for expert in experts]
        print(f"plain forms, {torch.get_num_threads()} threads, {base.numel():,} entries")
        delta = experts[0].float() - base.float()
        show("threshold, full sort", base.numel(), timed(lambda: delta.abs().view(-1).argsort(descending=True)))
        numel = base.numel() * len(experts)
        if "ties" in given.methods:
            show("ties, full sort", numel, timed(lambda: plain_merge(base, experts, sorted_trim)))
        if "dare_ties" in given.methods:
            show("dare_ties, bernoulli", numel, timed(lambda: plain_merge(base, experts, random_drop)))


def models(entries: int, columns: int, count: int) -> tuple[Tensor, list[Tensor]]:
    generator = torch.Generator().manual_seed(0)
    shape = (entries // columns, columns)

    def random(scale: float) -> Tensor:
        return torch.empty(shape, dtype=torch.bfloat16).normal_(generator=generator).mul_(scale)

    base = random(0.02)
    return base, [base + random(0.002) for _ in range(count)]


def complete(name: str, count: int) -> dict[str, Any]:
    given = dict(OPTIONS.get(name, {}))
    values = {parameter.name: given.pop(parameter.name, parameter.default) for parameter in METHODS[name].parameters}
    for parameter in METHODS[name].parameters:
        if parameter.per_model:
            values[parameter.name] = [values[parameter.name]] * count
    return values | given


def sorted_trim(delta: Tensor) -> Tensor:
    mask = torch.zeros(delta.numel(), dtype=torch.bool)
    mask[delta.abs().view(-1).argsort(descending=True)[: int(0.2 * delta.numel())]] = True
    return delta * mask.view(delta.shape)


def random_drop(delta: Tensor) -> Tensor:
    return delta * torch.bernoulli(torch.full_like(delta, 0.2)) / 0.2


def plain_merge(base: Tensor, experts: list[Tensor], trim: Callable[[Tensor], Tensor]) -> Tensor:
    deltas = torch.stack([trim(expert.float() - base.float()) for expert in experts])
    agrees = deltas.sign() == torch.where(deltas.sum(0) >= 0, 1.0, -1.0)
    return (deltas * agrees).sum(0) / agrees.sum(0).clamp_min(1)


def report(what: str, entries: int, run: Callable[[], object]) -> None:
    alone = min(timed(run) for _ in range(2))
    threads = [threading.Thread(target=run) for _ in range(2)]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    both = (time.perf_counter() - start) / 2
    print(f"{what:24} {alone / entries * 1e9:12.2f} {both / entries * 1e9:12.2f}", flush=True)


def show(what: str, entries: int, seconds: float) -> None:
    print(f"{what:24} {seconds / entries * 1e9:12.2f}", flush=True)


def timed(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
