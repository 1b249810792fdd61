"""Compare several models from one pass with one merge, in turns: wall time and CPU time.

``python benchmarks/outputs.py FOLDER`` writes a base and experts of Llama shape to FOLDER and reuses them in the next
run.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

EXPERTS = 4
CASES: dict[str, dict[str, Any]] = {
    "svc": {"merge_method": "task_arithmetic", "calibrate": {"method": "svc"}},
    "swudi": {"merge_method": "swudi"},
}
OUTPUTS: dict[str, list[dict[str, Any]]] = {
    "svc": [{"path": "a"}, {"path": "b", "lambda": 0.3}, {"path": "c", "calibrate": {"alpha": 0.5}}],
    "swudi": [{"path": f"t{time}", "parameters": {"exp_time": time}} for time in (100, 300, 1300)],
}


def merge(recipe: dict[str, Any], work: Path, models: Path) -> tuple[float, float]:
    """Wall seconds and CPU seconds of one merge by the command."""
    recipe = {
        "base_model": str(models / "base"),
        "models": [{"model": str(models / f"expert{number}")} for number in range(EXPERTS)],
        **recipe,
    }
    shutil.rmtree(work / "out", ignore_errors=True)
    (work / "recipe.yaml").write_text(json.dumps(recipe))
    command = [
        sys.executable,
        "-m",
        "svc_dist",
        "merge",
        str(work / "recipe.yaml"),
        str(work / "out"),
        "--executor",
        "inline",
    ]
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    subprocess.run(command, check=True, capture_output=True)
    seconds, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--method", choices=list(CASES), default="svc")
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--hidden", type=int, default=1024)
    given = parser.parse_args()
    if not (given.folder / "base").exists():
        script = Path(__file__).with_name("checkpoints.py")
        sizes = ["--layers", given.layers, "--hidden", given.hidden, "--intermediate", 11 * given.hidden // 4]
        shape = [*map(str, sizes), "--vocabulary", "2000", "--experts", str(EXPERTS)]
        shape += ["--kv", str(given.hidden // 4)]
        subprocess.run([sys.executable, str(script), str(given.folder), *shape], check=True)
    work = given.folder / "work"
    work.mkdir(exist_ok=True)
    pairs = []
    for _ in range(given.runs):
        one = merge(CASES[given.method], work, given.folder)
        three = merge({**CASES[given.method], "outputs": OUTPUTS[given.method]}, work, given.folder)
        pairs.append((one, three))
        print(f"one {one[0]:.1f} s, CPU {one[1]:.1f} s; three {three[0]:.1f} s, CPU {three[1]:.1f} s", flush=True)
    for place, name in enumerate(("wall time", "CPU time")):
        ratios = [three[place] / one[place] for one, three in pairs]
        listed = ", ".join(f"{ratio:.2f}" for ratio in ratios)
        print(f"three models take {statistics.median(ratios):.2f} times as long as one, {name} ({listed})")


if __name__ == "__main__":
    main()
