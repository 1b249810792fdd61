"""What one GPU does: errors beside the CPU, launches, waits and bytes, decompositions, products, copies, a whole merge.

    python -m benchmarks.gpu                        # under eight minutes on one GPU with 80 GB, without a network
    python -m benchmarks.gpu --json gpu.json        # the same, and a file of it, whose ``speed`` forecasts can use
    python -m benchmarks.gpu --matrix 1024x3584     # only what each spectral method does for a matrix of this shape

It needs 12 GB of RAM disk (--scratch, default /dev/shm) for four models of 1.1 B parameters, and leaves nothing there.
Without a GPU it checks its own logic on a pretended one with small sizes, says so, and writes no speed. It exits with 1
where a result differs from the CPU's by more than it may, or an error is not handled as documented.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from safetensors.torch import load_file, save_file

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import svc_dist
from svc_dist.errors import SvcDistError
from svc_dist.forecast.data_sheets import CORE
from svc_dist.forecast.rates import Speed
from svc_dist.linalg.threads import threads_fixed
from svc_dist.methods.registry import METHODS
from svc_dist.run.devices import cuda
from tests.support.checkpoints import llama_shapes
from tests.support.pretended_device import COUNTS, Pretending, counted_units, pretended_device

BUDGET = 450.0  # seconds for everything
GIVEN: dict[str, dict[str, Any]] = {
    "ties": {"density": 0.3}, "dare_linear": {"density": 0.5}, "dare_ties": {"density": 0.5},
    "della": {"density": 0.5, "epsilon": 0.2}, "della_linear": {"density": 0.5, "epsilon": 0.2},
    "breadcrumbs": {"density": 0.5, "gamma": 0.05}, "breadcrumbs_ties": {"density": 0.5, "gamma": 0.05},
    "wudi": {"steps": 20}, "optmerge": {"steps": 20},
}  # fmt: skip
MAY_DIFFER = 6e-3  # of the change, in bfloat16: half of a last place, and a little for directions that are cut
LOOSE = {"optmerge": 5e-2, "star": 2e-2}  # a rank near a tie
COLUMNS = ("method", "error", "launches", "waits", "bytes sent", "of once")
MATRIX = "model.layers.0.mlp.down_proj.weight"


@dataclasses.dataclass
class Bench:
    """One run. ``pretended``: there is no GPU, and sizes are small; ``wrong``: what is not as it should be."""

    pretended: bool
    scratch: Path
    began: float = dataclasses.field(default_factory=time.monotonic)
    found: dict[str, Any] = dataclasses.field(default_factory=dict)
    wrong: list[str] = dataclasses.field(default_factory=list)

    @property
    def left(self) -> float:
        return BUDGET - (time.monotonic() - self.began)

    def say(self, *cells: object) -> None:
        print("  ".join(f"{cell:>14}" if number else f"{cell:34}" for number, cell in enumerate(cells)), flush=True)

    def seconds(self, work: Callable[[], object], times: int = 3) -> float:
        """The median of some runs on the device after a first one."""
        work()
        taken = []
        for _ in range(times):
            torch.cuda.synchronize()
            start = time.perf_counter()
            work()
            torch.cuda.synchronize()
            taken.append(time.perf_counter() - start)
        return statistics.median(taken)


def copies(bench: Bench) -> None:
    """Host to device and back, from pageable and from pinned memory: bytes a second."""
    size = 1 << 20 if bench.pretended else 1 << 30
    pageable, there = torch.ones(size, dtype=torch.uint8), torch.ones(size, dtype=torch.uint8, device="cuda:0")
    pinned = pageable.pin_memory()
    for kind, host in (("pageable", pageable), ("pinned", pinned)):
        up = size / bench.seconds(lambda host=host: there.copy_(host))  # type: ignore[misc]
        down = size / bench.seconds(lambda host=host: host.copy_(there))  # type: ignore[misc]
        bench.found.setdefault("copies", {})[kind] = {"to_device": up, "to_host": down}
        bench.say(f"copies, {kind}", f"{up / 1e9:.1f} GB/s up", f"{down / 1e9:.1f} GB/s down")


def products(bench: Bench) -> None:
    """Matrix products by dtype and size, and additions: operations a second."""
    sizes = (64, 128) if bench.pretended else (1024, 2048, 4096, 8192, 16384, 24576)
    for kind in (torch.float64, torch.float32):
        rates = bench.found.setdefault("products", {}).setdefault(str(kind).removeprefix("torch."), {})
        for size in sizes:
            if bench.left < 300 and size > 8192:
                continue
            one = torch.randn(size, size, device="cuda:0", dtype=kind)
            rates[size] = 2.0 * size**3 / bench.seconds(lambda one=one: one @ one)  # type: ignore[misc]
            bench.say(f"product {size} {kind}", f"{rates[size] / 1e12:.2f} Tflop/s")
            del one
    size = 1 << 16 if bench.pretended else 1 << 28
    one, other = (torch.ones(size, device="cuda:0") for _ in range(2))
    bench.found["additions"] = size / bench.seconds(lambda: torch.add(one, other))


def decompositions(bench: Bench) -> None:
    """Symmetric eigendecompositions in float64: seconds, and workspace in entries per entry of the matrix."""
    found = bench.found["eigen"] = {}
    last = 0.0
    for size in (32, 64) if bench.pretended else (1024, 2048, 4096, 8192, 12288, 16384, 22528, 24576):
        if 8 * last > bench.left - 240:
            found[size] = {"skipped": "it would take too long"}
            continue
        matrix = torch.randn(size, size, device="cuda:0", dtype=torch.float64)
        matrix = matrix @ matrix.T
        try:
            last, extra = _decomposed(bench, matrix)
        except RuntimeError as error:  # which sizes a library takes is what is asked here
            found[size] = {"error": f"{error}".splitlines()[0]}
        else:
            found[size] = {"seconds": last, "workspace": extra / (8 * size**2)}
        bench.say(f"eigh {size}", *(f"{key} {value:.3g}" if isinstance(value, float) else value
                                    for key, value in found[size].items()))  # fmt: skip
        del matrix


def _decomposed(bench: Bench, matrix: torch.Tensor) -> tuple[float, float]:
    if bench.pretended:
        return bench.seconds(lambda: torch.linalg.eigh(matrix), 1), 0.0
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    free = torch.cuda.mem_get_info()[0]
    start = time.perf_counter()
    values, vectors = torch.linalg.eigh(matrix)
    torch.cuda.synchronize()
    taken = time.perf_counter() - start
    del values, vectors
    peak = max(torch.cuda.max_memory_allocated() - torch.cuda.memory_allocated(), free - torch.cuda.mem_get_info()[0])
    return taken, float(peak - 8 * matrix.numel())


def models(folder: Path, shapes: dict[str, tuple[int, ...]], experts: int) -> list[str]:
    """A base and experts that share directions, made on the device."""
    made = torch.Generator().manual_seed(0)
    tensors: list[dict[str, torch.Tensor]] = [{} for _ in range(experts + 1)]
    quick = torch.Generator(device="cuda") if torch.cuda.is_available() and torch.version.cuda else made
    for name, shape in shapes.items():
        base = torch.randn(shape, generator=quick, device=quick.device) * 0.02
        shared = _change(shape, quick)
        for number, one in enumerate(tensors):
            one[name] = (base if number == 0 else base + shared + _change(shape, quick)).bfloat16().cpu()
    for number, one in enumerate(tensors):
        (folder / str(number)).mkdir(parents=True)
        save_file(one, folder / str(number) / "model.safetensors", metadata={"format": "pt"})
        (folder / str(number) / "config.json").write_text('{"model_type": "llama", "torch_dtype": "bfloat16"}')
    return [str(folder / str(number)) for number in range(experts + 1)]


def _change(shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    noise = torch.randn(shape, generator=generator, device=generator.device) * 2e-3
    if len(shape) < 2:
        return noise
    left = torch.randn(shape[0], 8, generator=generator, device=generator.device) * 0.004
    return noise + left @ torch.randn(8, shape[1], generator=generator, device=generator.device)


def recipe(folders: list[str], method: str, calibrate: str | None) -> dict[str, Any]:
    few = folders[: 1 + (METHODS[method].experts[1] or len(folders))]
    made: dict[str, Any] = {"base_model": few[0], "models": [{"model": one} for one in few[1:]], "merge_method": method}
    made |= {"parameters": GIVEN[method]} if method in GIVEN else {}
    return made | ({"calibrate": calibrate} if calibrate else {})


def merged(given: dict[str, Any], out: Path, device: str, slots: int = 1) -> dict[str, Any]:
    """Merge anew; the report."""
    shutil.rmtree(out, ignore_errors=True)
    svc_dist.merge(given, out, device=device, executor="inline", slots=slots)
    report: dict[str, Any] = json.loads((out / "merge_report.json").read_text())
    return report


def methods(bench: Bench) -> None:
    """Every method on the device and on the CPU: how far the results differ, and what the device did."""
    folders = models(bench.scratch / "matrix", {MATRIX: (96, 288) if bench.pretended else (512, 1792)}, 3)
    bench.say(*COLUMNS)
    for name, method in METHODS.items():
        for calibrate in (None, "svc") if method.family == "spectral" else ("svc",):
            if name != "passthrough" and bench.left >= 120:
                counted(bench, recipe(folders, name, calibrate), LOOSE.get(name, MAY_DIFFER))


def counted(bench: Bench, given: dict[str, Any], may: float) -> None:
    """What the device did for a merge, and how far its result is from the CPU's."""
    name = f"{given['merge_method']}{' + svc' if 'calibrate' in given else ''}"
    with counted_units(bench.pretended):
        merged(given, bench.scratch / "there", "cuda")
        counts = dataclasses.replace(COUNTS)
    off = compared(bench, name, given, may)
    once = sum(
        one.nbytes
        for folder in (given["base_model"], *(model["model"] for model in given["models"]))
        for one in load_file(Path(folder) / "model.safetensors").values()
    )
    row = {"error": off, "launches": counts.launches, "waits": counts.waits, "sent": counts.sent}
    bench.found.setdefault("methods", {})[name] = row
    bench.say(name, f"{off:.1e}", counts.launches, counts.waits, counts.sent, f"{counts.sent / once:.2f}")


def matrix(bench: Bench, shape: tuple[int, ...]) -> None:
    """What every spectral method, and SVC on a plain sum, does for one matrix and three experts."""
    folders = models(bench.scratch / "matrix", {MATRIX: shape}, 3)
    bench.say(*COLUMNS)
    counted(bench, recipe(folders, "task_arithmetic", "svc"), MAY_DIFFER)
    for name in (name for name, method in METHODS.items() if method.family == "spectral"):
        for calibrate in (None, "svc"):
            counted(bench, recipe(folders, name, calibrate), LOOSE.get(name, MAY_DIFFER))


def compared(bench: Bench, what: str, given: dict[str, Any], may: float) -> float:
    """How far what was merged on the device is from the CPU's result, relative to how far that is from the base."""
    merged(given, bench.scratch / "here", "cpu")
    there, here = (load_file(bench.scratch / place / "model.safetensors") for place in ("there", "here"))
    base, worst = load_file(Path(given["base_model"]) / "model.safetensors"), 0.0
    for name, tensor in here.items():
        moved = (tensor.double() - base[name].double()).norm().clamp_min(1e-12)
        worst = max(worst, float((there[name].double() - tensor.double()).norm() / moved))
    if not worst <= may:
        bench.wrong.append(f"{what}: off by {worst:.1e}")
    return worst


def whole(bench: Bench) -> None:
    """A merge of four models of 1.1 B (or tiny ones) from a RAM disk: seconds by stage, and how busy the GPU is."""
    models_are = "tiny models" if bench.pretended else "1.1 B x 4"
    shapes = llama_shapes(1, 64, 176, 256, 32) if bench.pretended else llama_shapes(22, 2048, 5632, 32000, 256)
    folders = models(bench.scratch / "models", shapes, 3)
    for method in ("task_arithmetic", "swudi"):
        with busy(bench) as samples, _device(bench):
            start = time.perf_counter()
            report = merged(recipe(folders, method, "svc"), bench.scratch / "whole", "cuda", slots=2)
            taken = time.perf_counter() - start
        share = statistics.mean(samples) / 100 if samples else None
        row = {"seconds": taken, "stages": report["unit_seconds"], "busy": share}
        bench.found.setdefault("merges", {})[f"{method} + svc"] = row
        stages = ", ".join(f"{stage} {value:.1f} s" for stage, value in report["unit_seconds"].items())
        said = f"{share:.0%} busy" if share is not None else "busy: no nvidia-smi"
        bench.say(f"{models_are}, {method} + svc", f"{taken:.1f} s", stages, said)


@contextmanager
def _device(bench: Bench) -> Iterator[None]:
    with counted_units() if bench.pretended else ExitStack():
        yield


@contextmanager
def busy(bench: Bench) -> Iterator[list[float]]:
    """Samples of the GPU's utilisation in percent, by nvidia-smi."""
    samples: list[float] = []
    command = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "-lms", "100"]
    if bench.pretended or shutil.which(command[0]) is None:
        yield samples
        return
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        yield samples
    finally:
        process.terminate()
        for line in process.communicate()[0].splitlines():
            with suppress(ValueError):
                samples.append(float(line))


def troubles(bench: Bench) -> None:
    """Out of memory on purpose; a solver that refuses; a device that fails."""
    given = recipe([str(bench.scratch / "matrix" / str(number)) for number in range(4)], "swudi", "svc")
    with _eigh_fails(torch.OutOfMemoryError("CUDA out of memory")) if bench.pretended else _full(), _device(bench):
        merged(given, bench.scratch / "there", "cuda")
    off = compared(bench, "out of memory", given, MAY_DIFFER)
    bench.say("out of memory: done elsewhere", f"{off:.1e}")
    refusal = RuntimeError("cusolver error: CUSOLVER_STATUS_INTERNAL_ERROR, when calling `cusolverDnXsyevd`")
    with _eigh_fails(refusal), _device(bench):
        merged(given, bench.scratch / "there", "cuda")
    off_refused = compared(bench, "a solver that refuses", given, MAY_DIFFER)
    bench.say("solver refuses: LAPACK", f"{off_refused:.1e}")
    failure = "nothing was raised"
    with _eigh_fails(RuntimeError("CUDA error: an illegal memory access was encountered")), _device(bench):
        try:
            merged(given, bench.scratch / "there", "cuda")
        except SvcDistError as error:
            failure = " ".join(f"{error}".split())
    if "illegal memory access" not in failure:
        bench.wrong.append(f"a device that fails: {failure}")
    bench.say("device fails", failure)
    bench.found["troubles"] = {"out_of_memory": off, "refused": off_refused, "failed": failure}


@contextmanager
def _eigh_fails(error: RuntimeError) -> Iterator[None]:
    """Every eigendecomposition of the device's library raises this."""
    inner = torch.linalg.eigh

    def failing(matrix: torch.Tensor, *rest: Any, **more: Any) -> Any:
        if matrix.device.type == "cuda":
            raise error
        return inner(matrix, *rest, **more)

    with mock.patch.object(torch.linalg, "eigh", failing):
        yield


@contextmanager
def _full() -> Iterator[None]:
    """A GPU with hardly any free memory."""
    torch.cuda.empty_cache()
    with mock.patch("svc_dist.run.executors.inline.limit_memory", return_value=None):
        filling = torch.empty(max(0, torch.cuda.mem_get_info()[0] - (48 << 20)), dtype=torch.uint8, device="cuda")
        yield
        del filling


def speed_of(found: dict[str, Any]) -> Speed:
    """The measured rates as forecasts take them; codes are the host's work, as in the data sheets."""
    best = {kind: max(rates.values()) for kind, rates in found["products"].items()}
    eigen = tuple((int(size), one["seconds"]) for size, one in found["eigen"].items() if "seconds" in one)
    transfer = found["copies"]["pinned"]["to_device"]
    return Speed(best["float64"], best["float32"], found["additions"], eigen, CORE.decode,
                 CORE.encode, transfer)  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="file for everything that was measured")
    parser.add_argument("--scratch", type=Path, default=Path("/dev/shm"), help="a folder in memory")
    parser.add_argument("--matrix", metavar="MxN", help="only costs of the spectral methods for such a matrix")
    options = parser.parse_args()
    logging.getLogger("svc_dist").setLevel(logging.ERROR)
    pretended = not (cuda.has_driver() and cuda.usable())
    if pretended:
        print(f"There is no GPU here ({cuda.why_unusable()}).")
        print("This run checks the benchmark's own logic on a pretended device with small sizes:")
        print("no figure below is one of a GPU.\n")
    with tempfile.TemporaryDirectory(dir=options.scratch if options.scratch.is_dir() else None) as folder:
        bench = Bench(pretended, Path(folder))
        if options.matrix:
            matrix(bench, tuple(map(int, options.matrix.split("x"))))
            print("; ".join(bench.wrong) or "all as it should be")
            return int(bool(bench.wrong))
        with ExitStack() as stack:
            stack.enter_context(threads_fixed(torch.get_num_threads()))  # and no product in TF32
            if pretended:
                stack.enter_context(pretended_device())
                stack.enter_context(Pretending())
            bench.found["gpu"] = {"name": cuda.gpu_name(), "torch": cuda.torch_build(), "memory": cuda.memory_of_each()}
            for section in (copies, products, decompositions):
                section(bench)
        for section in (methods, troubles, whole):
            section(bench)
    took = time.monotonic() - bench.began
    bench.found |= {"pretended": pretended, "seconds": took, "wrong": bench.wrong}
    if not pretended:
        bench.found["speed"] = dataclasses.asdict(speed_of(bench.found))
    if options.json is not None:
        options.json.write_text(json.dumps(bench.found, indent=1) + "\n")
    print(f"\n{took:.0f} s; " + ("; ".join(bench.wrong) or "all as it should be"))
    return int(bool(bench.wrong))


if __name__ == "__main__":
    sys.exit(main())
