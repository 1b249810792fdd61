"""Time merges of low-rank deltas in factored form and in dense form, in one run.

For each method, the script prints the median seconds of both forms, the speed-up of the factored form, and the relative
difference of the results in float64. The time covers everything from the deltas to the merged delta, which is formed
chunk by chunk as in a unit.

    python benchmarks/lora.py
    python benchmarks/lora.py --shape 8192x8192 --experts 8 --rank 32 --methods swudi+svc --repeats 1
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch import Tensor

from svc_dist.linalg.threads import fix_threads
from svc_dist.methods.chunking import chunks
from svc_dist.methods.deltas import TaskDeltas
from svc_dist.methods.low_rank import LowRank
from svc_dist.methods.registry import METHODS
from tests.support.spectral_cases import merge_matrix

ALL = (
    "task_arithmetic+svc",
    "tsv_m",
    "tsv_m+svc",
    "iso_c",
    "iso_c+svc",
    "swudi",
    "swudi+svc",
    "swudi_a",
    "swudi_a+svc",
)


def adapters(rows: int, columns: int, rank: int, count: int) -> list[LowRank]:
    """Adapters in float32 that share some directions."""
    generator = torch.Generator().manual_seed(0)
    shared = torch.randn(rows, rank, generator=generator), torch.randn(rank, columns, generator=generator)
    found = []
    for _ in range(count):
        left, right = torch.randn(rows, rank, generator=generator), torch.randn(rank, columns, generator=generator)
        found.append(LowRank((left + shared[0]) / rows**0.5, (right + shared[1]) / columns**0.5, 2.0))
    return found


def merged(deltas: TaskDeltas, method: str) -> Iterator[Tensor]:
    """The merged delta, chunk by chunk, as in a unit."""
    name, _, calibrate = method.partition("+")
    chosen = METHODS[name]
    parameters: dict[str, Any] = {parameter.name: parameter.default for parameter in chosen.parameters}
    if "weight" in parameters:
        parameters["weight"] = [1.0] * len(deltas)
    calibration = {"method": "svc", "alpha": 1 / len(deltas), "side": "left"} if calibrate else None
    delta = merge_matrix(deltas, chosen, parameters, calibration, [])
    for start, end in chunks(deltas.numel, deltas.row):
        if isinstance(delta, Tensor):
            yield delta.view(-1)[start:end]
        else:
            yield delta.chunk(start, end).dense(deltas.dtype, "cpu")


def timed(deltas: TaskDeltas, method: str, repeats: int) -> float:
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        for _chunk in merged(deltas, method):
            pass
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=list(ALL), choices=ALL)
    parser.add_argument("--shape", default="4096x4096", help="rows x columns")
    parser.add_argument("--experts", type=int, default=4)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--precision", default="mixed", choices=["mixed", "fast", "float64"])
    parser.add_argument(
        "--repeats", type=int, default=1, help="runs of the dense form; the factored form runs 5 times as often"
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--agree", default="1024x1024", help="shape for the comparison in float64; '' skips it")
    chosen = parser.parse_args()
    fix_threads(chosen.threads)
    rows, columns = map(int, chosen.shape.split("x"))
    parts = adapters(rows, columns, chosen.rank, chosen.experts)
    dense = [part.dense(torch.float32, "cpu").view(rows, columns) for part in parts]
    small = [] if not chosen.agree else adapters(*map(int, chosen.agree.split("x")), chosen.rank, chosen.experts)
    for method in chosen.methods:
        factored = TaskDeltas([None] * len(parts), changes=parts, precision=chosen.precision, shape=(rows, columns))
        given = TaskDeltas(dense, precision=chosen.precision)
        timed(factored, method, 1)  # warms up the libraries
        fast, slow = timed(factored, method, 5 * chosen.repeats), timed(given, method, chosen.repeats)
        line = f"{method:20} factored {fast:7.3f} s  dense {slow:8.2f} s  speed-up {slow / fast:6.0f}"
        if small:
            wide = [part.dense(torch.float64, "cpu").view(part.shape) for part in small]
            own = TaskDeltas([None] * len(small), changes=small, precision="float64", shape=small[0].shape)
            dense64 = TaskDeltas(wide, precision="float64")
            exact, other = torch.cat(list(merged(own, method))), torch.cat(list(merged(dense64, method)))
            error = torch.linalg.vector_norm(exact - other) / torch.linalg.vector_norm(other)
            line += f"  difference in float64 {float(error):.1e}"
        print(line, flush=True)


if __name__ == "__main__":
    main()
