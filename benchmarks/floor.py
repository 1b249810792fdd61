"""Whole merges beside the floor: a program that maps and reads all inputs and writes, hashes and syncs one output.

    python benchmarks/checkpoints.py models
    python -m venv mk && mk/bin/pip install mergekit==0.1.5
    python benchmarks/floor.py models --mergekit mk/bin/mergekit-yaml

Every round runs the floor, then each merge by svc-dist, then by mergekit, with a warm page cache. The table has medians
and, round by round, ratios: wall and CPU seconds over those of the floor, and mergekit's seconds over svc-dist's.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import shlex
import shutil
import statistics
import sys
import threading
from pathlib import Path
from typing import Any

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.merge import Run, measure, warm, write_recipe

METHODS: dict[str, dict[str, Any]] = {"task_arithmetic": {}, "ties": {"density": 0.2}, "dare_ties": {"density": 0.2}}
_RANGE, _WRITE = 32 << 20, 1 << 19  # bytes of a range and of one write, as in a merge
_RWF_DONTCACHE = 0x80  # <linux/fs.h>


def read_and_write(models: Path, output: Path) -> None:
    """The floor itself, on two threads: read every byte of every model, write those of the last one, as durably."""
    import numpy as np
    import xxhash

    inputs = [os.open(file, os.O_RDONLY) for file in sorted(models.glob("*/*.safetensors"))]
    names = {file.parent.name for file in models.glob("*/*.safetensors")}
    if len(inputs) != len(names):
        raise SystemExit("the floor takes models of one file: write them with checkpoints.py and one shard")
    size = os.fstat(inputs[-1]).st_size
    target = os.open(output, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
    os.posix_fallocate(target, 0, size)
    starts, lock = iter(range(0, size, _RANGE)), threading.Lock()

    def run() -> None:
        while True:
            with lock:
                start = next(starts, None)
            if start is None:
                return
            length = min(_RANGE, size - start)
            for descriptor in inputs:
                mapped = mmap.mmap(descriptor, length, mmap.MAP_SHARED, mmap.PROT_READ, offset=start)
                np.frombuffer(mapped, np.uint64, length // 8).sum()
            data = memoryview(mapped)
            xxhash.xxh3_128(data)
            position = 0
            while position < length:
                part = [data[position : position + _WRITE]]
                position += _written(target, part, start + position)
            os.fdatasync(target)

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    os.fsync(target)


def _written(descriptor: int, part: list[memoryview], offset: int) -> int:
    try:
        return os.pwritev(descriptor, part, offset, _RWF_DONTCACHE)
    except OSError:  # an older kernel, or another file system
        return os.pwritev(descriptor, part, offset)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path, help="folder that checkpoints.py wrote")
    parser.add_argument("--mergekit", help="path of mergekit-yaml; without it, only svc-dist runs")
    parser.add_argument("--mergekit-flags", default="--no-copy-tokenizer --no-write-model-card")
    parser.add_argument("--methods", nargs="*", default=list(METHODS), choices=METHODS)
    parser.add_argument("--other", type=Path, help="another checkout of svc_dist, measured in the same rounds")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--work", type=Path, default=Path("benchmark-work"))
    parser.add_argument("--json", type=Path, help="write the medians, which compared.py draws")
    parser.add_argument("--only-floor", type=Path, metavar="OUTPUT", help="run the floor alone, once")
    options = parser.parse_args()
    if options.only_floor is not None:
        read_and_write(options.models, options.only_floor)
        return

    options.work.mkdir(exist_ok=True)
    target = options.work / "target"
    runs: dict[str, list[Run]] = {}
    for _ in range(options.runs):
        for name, command, checkout in commands(options, target):
            shutil.rmtree(target, ignore_errors=True)
            warm(options.models)
            runs.setdefault(name, []).append(measure(command, checkout))
            print(f"{name:26s} {runs[name][-1]}", flush=True)
    shutil.rmtree(target, ignore_errors=True)
    (options.work / "floor.bin").unlink(missing_ok=True)
    print_table(runs, options.runs)
    if options.json is not None:
        options.json.write_text(json.dumps(medians(runs), indent=1) + "\n", encoding="utf-8")


def medians(runs: dict[str, list[Run]]) -> dict[str, dict[str, float]]:
    """By command, the median seconds and MiB of anonymous memory."""
    return {
        name: {
            "seconds": round(statistics.median(run.wall for run in each), 1),
            "memory_mib": round(statistics.median(run.anonymous for run in each)),
        }
        for name, each in runs.items()
    }


def commands(options: argparse.Namespace, target: Path) -> list[tuple[str, list[str], Path]]:
    """The commands of a round, each with its name and the checkout that it runs."""
    here = Path(__file__).resolve().parents[1]
    floor = options.work / "floor.bin"
    result = [("floor", [sys.executable, __file__, str(options.models), "--only-floor", str(floor)], here)]
    for method in options.methods:
        recipe = options.work / f"{method}.yaml"
        write_recipe(recipe, options.models, method, METHODS[method], {})
        merge = [sys.executable, "-m", "svc_dist", "merge", str(recipe), str(target)]
        result.append((method, merge, here))
        if options.other is not None:
            result.append((f"{method}, other", merge, options.other.resolve()))
        if options.mergekit:
            theirs = [options.mergekit, str(recipe), str(target), *shlex.split(options.mergekit_flags)]
            result.append((f"{method}, mergekit", theirs, here))
    return result


def print_table(runs: dict[str, list[Run]], count: int) -> None:
    def median(name: str, field: str, over: str | None = None) -> float:
        pairs = zip(runs[name], runs[over or name], strict=True)
        ratios: list[float] = [getattr(a, field) / (getattr(b, field) if over else 1) for a, b in pairs]
        return statistics.median(ratios)

    print(f"\nmedian of {count}; the floor reads all models and writes one")
    heads = ("wall s", "cpu s", "over floor", "cpu over", "anon MiB", "mergekit over", "cpu")
    print(f"{'':26s}" + "".join(f" {head:>13s}" for head in heads))
    for name in runs:
        cells = [median(name, "wall"), median(name, "cpu"), median(name, "wall", "floor"), median(name, "cpu", "floor")]
        cells.append(median(name, "anonymous"))
        theirs = f"{name}, mergekit"
        if theirs in runs:
            cells += [median(theirs, "wall", name), median(theirs, "cpu", name)]
        print(f"{name:26s}" + "".join(f" {cell:13.2f}" for cell in cells))


if __name__ == "__main__":
    main()
