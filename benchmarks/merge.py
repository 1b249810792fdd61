"""Compare the whole command with mergekit's on the same checkpoints, in turns: seconds and peak memory.

    python benchmarks/checkpoints.py models
    python -m venv mk && mk/bin/pip install mergekit==0.1.5
    python benchmarks/merge.py models --mergekit mk/bin/mergekit-yaml --method task_arithmetic

The script reads the files before each run, so that both programs start with a warm page cache. It samples the
anonymous and resident memory of the process from /proc every 5 ms.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Run:
    """One finished command: wall and CPU seconds, peak anonymous and resident memory in MiB."""

    wall: float
    cpu: float
    anonymous: float
    resident: float


def measure(command: list[str], checkout: Path | None = None) -> Run:
    """Run a command and wait for it. Raises CalledProcessError if it fails. ``checkout``: of svc_dist, to be run."""
    before = os.times()
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment(checkout))
    anonymous = resident = 0.0
    while process.poll() is None:
        a, r = memory_of(process.pid)
        anonymous, resident = max(anonymous, a), max(resident, r)
        time.sleep(0.005)
    wall = time.perf_counter() - began
    assert process.stderr is not None
    said = process.stderr.read()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command, stderr=said)
    after = os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return Run(wall, cpu, anonymous, resident)


def environment(checkout: Path | None = None) -> dict[str, str]:
    # Not the folder that this runs in, which ``python -m`` puts first.
    path = {} if checkout is None else {"PYTHONPATH": str(checkout), "PYTHONSAFEPATH": "1"}
    # Installed programs are compiled: without byte code, a fifth of a short merge is the compiling of sources.
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {**kept, **path, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}


def memory_of(pid: int) -> tuple[float, float]:
    """Anonymous and resident memory of a process, in MiB; zeros if the process has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0, 0.0
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    return tuple(int(fields.get(name, "0 kB").split()[0]) / 1024 for name in ("RssAnon", "VmRSS"))  # type: ignore[return-value]


def warm(models: Path) -> None:
    """Read every checkpoint into the page cache, so that no program pays for pages that another one evicted."""
    for file in sorted(models.rglob("*.safetensors")):
        with file.open("rb") as handle:
            while handle.read(1 << 24):
                pass


def write_recipe(
    file: Path, models: Path, method: str, parameters: dict[str, object], extra: dict[str, object]
) -> None:
    experts = sorted(path for path in models.iterdir() if path.name.startswith("expert"))
    recipe = {
        "base_model": str(models.absolute() / "base"),
        "models": [{"model": str(path.absolute()), "parameters": {"weight": 0.3}} for path in experts],
        "merge_method": method,
        "dtype": "bfloat16",
        **({"parameters": parameters} if parameters else {}),
        **extra,
    }
    file.write_text(json.dumps(recipe, indent=1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path, help="folder that checkpoints.py wrote")
    parser.add_argument("--mergekit", help="path of mergekit-yaml; without it, only svc-dist runs")
    parser.add_argument("--mergekit-flags", default="--no-copy-tokenizer --no-write-model-card")
    parser.add_argument("--flags", default="", help="more options for svc-dist merge")
    parser.add_argument("--method", default="task_arithmetic")
    parser.add_argument("--parameters", type=json.loads, default={}, help="e.g. '{\"density\": 0.2}'")
    parser.add_argument("--calibrate", help="e.g. svc (only for svc-dist)")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--work", type=Path, default=Path("benchmark-work"))
    options = parser.parse_args()

    options.work.mkdir(exist_ok=True)
    recipe = options.work / "recipe.yaml"
    extra = {"calibrate": options.calibrate} if options.calibrate else {}
    write_recipe(recipe, options.models, options.method, options.parameters, extra)
    ours = options.work / "ours"
    theirs = options.work / "theirs"
    commands = {
        "svc-dist": [sys.executable, "-m", "svc_dist", "merge", str(recipe), str(ours), *shlex.split(options.flags)]
    }
    if options.mergekit:
        commands["mergekit"] = [options.mergekit, str(recipe), str(theirs), *shlex.split(options.mergekit_flags)]
    runs: dict[str, list[Run]] = {name: [] for name in commands}
    for _ in range(options.runs):
        for name, command in commands.items():
            for folder in (ours, theirs):
                shutil.rmtree(folder, ignore_errors=True)
            warm(options.models)
            runs[name].append(measure(command))
            print(f"{name:9s} {runs[name][-1]}", flush=True)
    print(f"\nmedian of {options.runs}; {options.method} {options.parameters} {extra}")
    print(f"{'':9s} {'wall s':>8s} {'cpu s':>8s} {'anonymous MiB':>14s} {'resident MiB':>13s}")
    for name, done in runs.items():
        values = [
            statistics.median(getattr(run, field) for run in done) for field in ("wall", "cpu", "anonymous", "resident")
        ]
        print(f"{name:9s} {values[0]:8.2f} {values[1]:8.2f} {values[2]:14.0f} {values[3]:13.0f}")
    if "mergekit" in runs:
        ratios = [b.wall / a.wall for a, b in zip(runs["svc-dist"], runs["mergekit"], strict=True)]
        print(
            f"mergekit / svc-dist, pair by pair: median {statistics.median(ratios):.1f}, "
            + ", ".join(f"{r:.1f}" for r in ratios)
        )


if __name__ == "__main__":
    main()
