"""Throughput of codecs on two cores: decoding, merging and encoding, beside reading bfloat16.

    python benchmarks/quantised.py [--columns 7168] [--seconds 2] [--codecs mxfp4]
    python benchmarks/quantised.py --simulate

All figures are gigabytes a second of the weights that codes stand for, counted as bfloat16 (two bytes each), of two
threads together, each with chunks of its own as in a merge. They come from CPU time, so that other work on the machine
matters less; memory and cache are still shared with it.

``--simulate`` plans merges of three models of DeepSeek-V3's shape (671B in FP8) from headers alone, and simulates them
on a cluster: routed experts of one model with the rest averaged, as in R1T2 Chimera, and all tensors averaged.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from svc_dist.checkpoint.formats.codecs.codec import Codec
from svc_dist.checkpoint.formats.codecs.fp8_block import Fp8Block
from svc_dist.checkpoint.formats.codecs.fp8_scaled import Fp8Scaled
from svc_dist.checkpoint.formats.codecs.mxfp import Mxfp
from svc_dist.checkpoint.formats.codecs.nvfp4 import Nvfp4
from svc_dist.checkpoint.formats.codecs.packed_integers import PackedIntegers
from svc_dist.linalg.threads import fix_threads
from svc_dist.methods.apply import ResultParameters, merged_chunks
from svc_dist.methods.chunking import CHUNK
from svc_dist.methods.deltas import TaskDeltas
from svc_dist.run.process import return_freed_memory

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

_ROWS = 128  # of a slab that is encoded: those of a block
_THREADS = 2


def codecs(columns: int) -> dict[str, Codec]:
    shape = (_ROWS, columns)
    return {
        "FP8 blocks, F32 scales (DeepSeek-V3)": Fp8Block(shape, "deepgemm"),
        "FP8 blocks, BF16 scales (Qwen3)": Fp8Block(shape, "deepgemm", scale_dtype="BF16"),
        "FP8 blocks, powers of two (V3.1)": Fp8Block(shape, "deepgemm", powers=True),
        "FP8 channels (compressed-tensors)": Fp8Scaled(shape, "compressed-tensors", (_ROWS, 1), scale_dtype="BF16"),
        "FP8 tensor (ModelOpt)": Fp8Scaled(shape, "modelopt", ()),
        "MXFP4 (gpt-oss)": Mxfp(shape, "openai", 4, "_blocks", "_scales", blocked=True),
        "MXFP4 (compressed-tensors)": Mxfp(shape, "compressed-tensors"),
        "MXFP4 (DeepSeek-V4)": Mxfp(shape, "deepgemm", 4, ".weight", ".scale", "I8", "F8_E8M0"),
        "MXFP8 (compressed-tensors)": Mxfp(shape, "compressed-tensors", 8, ".weight", codes_dtype="F8_E4M3"),
        "NVFP4 (ModelOpt)": Nvfp4(shape, "modelopt", ".weight", ".weight_scale_2"),
        "NVFP4 (compressed-tensors)": Nvfp4(shape, "compressed-tensors"),
        "INT4, groups of 32 (Kimi-K2)": PackedIntegers(shape, "compressed-tensors"),
        "INT4 with zero points": PackedIntegers(shape, "compressed-tensors", zero_points=True),
        "INT8": PackedIntegers(shape, "compressed-tensors", bits=8),
    }


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--columns", type=int, default=7168)
    arguments.add_argument("--seconds", type=float, default=2.0, help="of each measurement")
    arguments.add_argument("--codecs", nargs="*", default=[], help="parts of names")
    arguments.add_argument("--simulate", action="store_true")
    arguments.add_argument("--cluster", default="nodes=4,gpus=8,gpu=h100,net=25Gbps")
    arguments.add_argument("--quantization", nargs="*", default=["base", "none"], choices=["base", "none"])
    given = arguments.parse_args()
    if given.simulate:
        simulate(given.cluster, given.quantization)
        return
    return_freed_memory()  # as in a merge
    fix_threads(1)
    rows = max(CHUNK // given.columns, 1)
    base, first, second = (weights(number, rows, given.columns) for number in range(3))
    reading = rate(lambda: TaskDeltas([first]).model(0), first.numel(), given.seconds)
    merging = rate(lambda: merge(base, [first, second]), base.numel(), given.seconds)
    print(f"{'GB/s, of both threads':38} {'decode':>8} {'encode':>8}")
    print(f"{'reading bfloat16':38} {reading:8.2f}")
    print(f"{'merging two experts, of the result':38} {merging:8.2f}", flush=True)
    weight = weights(0, _ROWS, given.columns)
    for name, codec in codecs(given.columns).items():
        if given.codecs and not any(part.lower() in name.lower() for part in given.codecs):
            continue
        whole = codec.whole(weight.float().abs().max(), weight.dtype) if codec.of_the_whole else {}
        stored = codec.encode(weight, whole)
        few = {part.suffix: stored[part.suffix][: part.range(0, rows)[1]] for part in codec.parts if part.shape}
        few = stored | few
        decoding = rate(lambda codec=codec, few=few: codec.decode(few), rows * given.columns, given.seconds)
        encoding = rate(lambda codec=codec, whole=whole: codec.encode(weight, whole), weight.numel(), given.seconds)
        print(f"{name:38} {decoding:8.2f} {encoding:8.2f}", flush=True)


def weights(seed: int, rows: int, columns: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.empty(rows, columns).normal_(generator=generator).mul_(0.02).bfloat16()


def merge(base: Tensor, experts: list[Tensor]) -> None:
    deltas = TaskDeltas(experts, base)
    for _, chunk in merged_chunks(
        deltas, "task_arithmetic", [ResultParameters({"weight": [0.5, 0.5], "normalize": False})]
    ):
        assert isinstance(chunk.merged, Tensor)
        torch.add(chunk.deltas.base.view(-1), chunk.merged).to(torch.bfloat16)


def rate(work: Callable[[], object], entries: int, seconds: float) -> float:
    """Gigabytes a second of all threads together, from the median CPU time of a call."""

    def repeated(_: int) -> float:
        spent = []
        while sum(spent) < seconds * 1e9 or len(spent) < 3:
            began = time.thread_time_ns()
            work()
            spent.append(time.thread_time_ns() - began)
        return statistics.median(spent)

    with ThreadPoolExecutor(_THREADS) as pool:
        return sum(2 * entries / nanoseconds for nanoseconds in pool.map(repeated, range(_THREADS)))


#: What is merged, by name: rules of a recipe with the base and the experts r1 and r2.
RECIPES: dict[str, list[dict[str, Any]]] = {
    "chimera": [
        {"kind": "routed_experts", "layer_range": [3, 61], "keep": "r1"},
        {"match": "*", "models": ["base", "r2"]},
    ],
    "all averaged": [],
}


def simulate(cluster: str, quantizations: list[str]) -> None:
    """Plan merges of 671B, and simulate them: seconds beside those of reading alone, and a unit's memory."""
    from svc_dist.api import make_plan
    from svc_dist.forecast.cluster import parse_cluster
    from svc_dist.forecast.prediction import predict
    from tests.support.deepseek import write_headers

    machines = parse_cluster(cluster)
    head = (
        "merge",
        "written",
        "planned in",
        "units",
        "read",
        "written",
        "seconds",
        "reading",
        "writing",
        "over",
        "memory",
    )
    print(f"{cluster}\n| {' | '.join(head)} |\n{'|---' * len(head)}|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        models = [str(write_headers(Path(folder) / name)) for name in ("v3", "r1", "r2")]
        experts = [{"model": path, "name": name} for path, name in zip(models[1:], ("r1", "r2"), strict=True)]
        for name, rules in RECIPES.items():
            for quantization in quantizations:
                recipe = {"base_model": models[0], "models": experts, "merge_method": "linear", "rules": rules}
                began = time.perf_counter()
                plan = make_plan(recipe | {"quantization": quantization}, device=machines.device)
                planned = time.perf_counter() - began
                began = time.perf_counter()
                found = predict(plan, machines)
                simulated = time.perf_counter() - began
                floor = max(found.bounds["read"], found.bounds["write"])
                figures = (
                    f"{planned:.0f} s + {simulated:.0f} s", f"{found.units:,}",
                    f"{found.bytes_in / 1e9:,.0f} GB", f"{found.bytes_out / 1e9:,.0f} GB", f"{found.seconds:.0f} s",
                    f"{found.bounds['read']:.0f} s", f"{found.bounds['write']:.0f} s", f"{found.seconds / floor:.2f}",
                    f"{max(unit.memory for unit in plan.units) / 2**20:.0f} MiB",
                )  # fmt: skip
                print(f"| {name} | {quantization} | {' | '.join(figures)} |", flush=True)
                print(found.text(), file=sys.stderr)


if __name__ == "__main__":
    main()
