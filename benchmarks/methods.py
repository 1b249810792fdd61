"""Time and check the spectral methods, compared with plain implementations of the same formulas, in one run.

The plain form (``tests/support/spectral_references.py``) follows the papers: full SVDs, all experts stacked, float32,
and WUDI by autograd. For each method and shape, the script prints the median seconds of every form, the speed-up of
the package, and the relative error of each form compared with the plain form in float64. With ``--memory`` it prints
the peak of additional memory instead, measured in a separate process for each form.

    python benchmarks/methods.py --methods svc swudi --shapes 2048x2048 4096x4096
    python benchmarks/methods.py --methods wudi --shapes 2048x2048 --steps 10 --no-accuracy
    python benchmarks/methods.py --methods svc --memory --experts 2 4 16
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch import Tensor

from svc_dist.linalg.threads import fix_threads
from svc_dist.methods.deltas import TaskDeltas
from svc_dist.methods.registry import METHODS
from svc_dist.run.process import return_freed_memory
from tests.support import spectral_references as plain
from tests.support.peak_memory import PeakMemory
from tests.support.spectral_cases import fine_tunes, merge_matrix

SHAPES = ("2048x2048", "5632x2048", "2048x5632", "4096x4096")
SEED = 7
ALL = ("svc", "swudi", "swudi_a", "tsv_m", "iso_c", "iso_cts", "star", "wudi", "optmerge")


def plain_form(method: str, steps: int) -> Callable[[Tensor], Tensor]:
    """The plain implementation, on stacked deltas ``(K, m, n)``."""
    if method == "svc":
        return lambda deltas: plain.svc(deltas.sum(0), deltas)
    if method in ("wudi", "optmerge"):
        return lambda deltas: getattr(plain, method)(deltas, steps=steps)
    function: Callable[[Tensor], Tensor] = getattr(plain, method)
    return function


def package_form(method: str, precision: str, steps: int, options: dict[str, Any]) -> Callable[[list[Tensor]], Tensor]:
    """The package's implementation, on the stored models."""
    name = "task_arithmetic" if method == "svc" else method
    calibration = {"method": "svc", "alpha": None, "side": "left"} if method == "svc" else None
    parameters = {parameter.name: parameter.default for parameter in METHODS[name].parameters}

    def run(models: list[Tensor]) -> Tensor:
        given = dict(parameters)
        if "weight" in given:
            given["weight"] = [1.0] * (len(models) - 1)
        if "steps" in given:
            given["steps"] = steps
        given.update(options)
        deltas = TaskDeltas(models[1:], models[0], precision=precision)
        return merge_matrix(deltas, METHODS[name], given, calibration)

    return run


def stacked(models: list[Tensor], dtype: torch.dtype) -> Tensor:
    return torch.stack([model.to(dtype) - models[0].to(dtype) for model in models[1:]])


def timed(action: Callable[[], Tensor], clock: Callable[[], float]) -> tuple[float, Tensor]:
    start = clock()
    result = action()
    return clock() - start, result


def peak_of(form: str, method: str, shape: str, experts: int, steps: int, options: dict[str, Any]) -> float:
    """Peak additional MiB of one form, in a new process. This includes the result, but not the stored models."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(_measure_peak, (form, method, shape, experts, steps, options, torch.get_num_threads()))


def _measure_peak(
    form: str, method: str, shape: str, experts: int, steps: int, options: dict[str, Any], threads: int
) -> float:
    fix_threads(threads)
    return_freed_memory()  # as in a worker, for every form
    models = fine_tunes(*_size(shape), experts, SEED)
    warm = torch.randn(64, 64)
    torch.linalg.eigh(warm @ warm.T)
    with PeakMemory() as memory:
        result = run_form(form, method, models, steps, options)
    del result
    return memory.mib


def run_form(form: str, method: str, models: list[Tensor], steps: int, options: dict[str, Any]) -> Tensor:
    if form == "plain32":
        return plain_form(method, steps)(stacked(models, torch.float32))
    if form == "plain64":
        return plain_form(method, steps)(stacked(models, torch.float64))
    return package_form(method, form, steps, options)(models)


def _size(shape: str) -> tuple[int, int]:
    rows, columns = shape.split("x")
    return int(rows), int(columns)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=["svc", "swudi", "tsv_m"], choices=ALL)
    parser.add_argument("--shapes", nargs="+", default=list(SHAPES), help="rows x columns")
    parser.add_argument("--experts", nargs="+", type=int, default=[4])
    parser.add_argument(
        "--forms",
        nargs="+",
        default=["plain32", "mixed", "fast"],
        choices=["plain32", "plain64", "mixed", "fast", "float64"],
    )
    parser.add_argument("--repeats", type=int, default=3, help="runs of each form; the forms run in turns")
    parser.add_argument("--steps", type=int, default=300, help="steps of wudi and optmerge")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--cpu-time", action="store_true", help="measure CPU time: for one thread on a shared machine")
    parser.add_argument("--no-accuracy", action="store_true", help="do not compute the float64 reference")
    parser.add_argument("--memory", action="store_true", help="measure peak memory instead of time")
    parser.add_argument("--option", nargs="*", default=[], help="parameters of the package's method, name=value")
    parser.add_argument("--json", action="store_true", help="print one JSON object per line")
    chosen = parser.parse_args()
    fix_threads(chosen.threads)
    options = {name: json.loads(value) for name, value in (item.split("=", 1) for item in chosen.option)}

    ratios: dict[tuple[str, str], list[float]] = {}
    for method in chosen.methods:
        for shape in chosen.shapes:
            for experts in chosen.experts:
                row: dict[str, Any] = {"method": method, "shape": shape, "experts": experts}
                if chosen.memory:
                    for form in chosen.forms:
                        row[f"{form} MiB"] = round(peak_of(form, method, shape, experts, chosen.steps, options))
                else:
                    models = fine_tunes(*_size(shape), experts, SEED)
                    row.update(measured(method, models, chosen, options))
                    for form in chosen.forms:
                        if f"{form} speedup" in row:
                            ratios.setdefault((method, form), []).append(row[f"{form} speedup"])
                print(json.dumps(row) if chosen.json else "  ".join(f"{key} {value}" for key, value in row.items()))
                sys.stdout.flush()
    for (method, form), values in ratios.items():
        mean = math.exp(statistics.fmean(math.log(value) for value in values))
        print(f"{method}: {form} {mean:.2f} times as fast as plain32 (geometric mean over {len(values)})")


def measured(
    method: str, models: list[Tensor], chosen: argparse.Namespace, options: dict[str, Any]
) -> dict[str, float | str]:
    """Median seconds of each form, run in turns; speed-ups over plain float32; errors compared with float64."""
    seconds: dict[str, list[float]] = {form: [] for form in chosen.forms}
    results: dict[str, Tensor] = {}
    clock = time.process_time if chosen.cpu_time else time.perf_counter
    for _ in range(chosen.repeats):
        for form in chosen.forms:
            spent, results[form] = timed(lambda form=form: run_form(form, method, models, chosen.steps, options), clock)
            seconds[form].append(spent)
    row: dict[str, float | str] = {f"{form} s": round(statistics.median(values), 3) for form, values in seconds.items()}
    for form in chosen.forms:
        if form != "plain32" and "plain32" in chosen.forms:
            row[f"{form} speedup"] = round(statistics.median(seconds["plain32"]) / statistics.median(seconds[form]), 2)
    if not chosen.no_accuracy:
        truth = results.get("plain64")
        truth = run_form("plain64", method, models, chosen.steps, options) if truth is None else truth
        stored = (models[0].double() + truth).bfloat16()
        for form, result in results.items():
            error = torch.linalg.vector_norm(result.double() - truth) / torch.linalg.vector_norm(truth)
            changed = float(((models[0].double() + result.double()).bfloat16() != stored).double().mean())
            row[f"{form} error"] = f"{float(error):.1e}"
            row[f"{form} stored bf16 that differ"] = f"{changed:.2%}"
    return row


if __name__ == "__main__":
    main()
