"""How long the largest models take to plan, from headers alone, and to open their plans: each in a process of its own.

    python benchmarks/planning.py FOLDER [--only WORD]

FOLDER gets models that are all hole: headers, index and config of DeepSeek-V3 (91,991 tensors in FP8), of the same in
bfloat16, and of Kimi-K2.5 (208,550 tensors, routed experts in INT4). A file takes the space of its header on the disk.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.support import deepseek, kimi

ROOT = Path(__file__).resolve().parents[1]
COLUMNS = (
    "models", "written as", "tensors", "units", "CPU s", "wall s", "peak MiB", "plan.json MB", "open CPU s", "open MiB",
)  # fmt: skip
PLAN = """
import json, sys, time
import svc_dist
peak = lambda: int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]) / 1024
began, cpu = time.perf_counter(), time.process_time()
plan = svc_dist.make_plan(json.loads(sys.argv[1]))
seconds = [time.process_time() - cpu, time.perf_counter() - began]
most = peak()
size = open(sys.argv[2], "wb").write(plan.to_json().encode())
print(json.dumps([*seconds, most, len(plan.tensors), len(plan.units), plan.tensor_bytes, size / 1e6]))
"""
OPEN = """
import json, sys, time
from svc_dist.plan.fingerprint import fingerprint
from svc_dist.plan.model import Plan
from svc_dist.run_folder.sound_plan import require_sound
peak = lambda: int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]) / 1024
before = peak()
data, cpu = open(sys.argv[1], "rb").read(), time.process_time()
plan = Plan.from_json(data)
assert fingerprint(plan) == plan.fingerprint
require_sound(plan)
print(json.dumps([time.process_time() - cpu, peak() - before]))
"""


def plain(entries: list[deepseek.Entry]) -> list[deepseek.Entry]:
    """The tensors of a model in bfloat16 whose weights are those of one in FP8."""
    weights = [entry for entry in entries if not entry[0].endswith("_scale_inv")]
    return [(name, "BF16" if dtype == "F8_E4M3" else dtype, shape) for name, dtype, shape in weights]


def models(folder: Path) -> dict[str, list[str]]:
    """The models of each case, the base first; written where they are missing."""
    config = {key: value for key, value in deepseek.config().items() if key != "quantization_config"}
    made = {
        **{f"fp8-{number}": lambda at: deepseek.write_headers(at) for number in range(4)},
        **{
            f"bf16-{number}": lambda at: deepseek.write_entries(at, plain(list(deepseek.tensors())), config, 163)
            for number in range(3)
        },
        **{f"int4-{number}": lambda at: kimi.write_headers(at) for number in range(3)},
    }
    for name, write in made.items():
        if not (folder / name / "config.json").exists():
            write(folder / name)
    fp8, bf16, int4 = (
        [str(folder / name) for name in made if name.startswith(kind)] for kind in ("fp8", "bf16", "int4")
    )
    return {
        "DeepSeek-V3, 4 in FP8": fp8,
        "DeepSeek-V3, base in FP8, 3 experts in bfloat16": [fp8[0], *bf16],
        "Kimi-K2.5, 3 in INT4": int4,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", default="", help="cases with this word")
    options = parser.parse_args()
    print(
        "| models | written as | tensors | units | CPU s | wall s | peak MiB | plan.json MB | open CPU s | open MiB |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    for name, folders in models(options.folder).items():
        for quantization in ("none", "base"):
            if options.only in name:
                print(f"| {name} | {quantization} | {measured(folders, quantization, options.folder / 'plan.json')} |")


def measured(folders: list[str], quantization: str, file: Path) -> str:
    """The cells of a row."""
    experts = [{"model": folder, "parameters": {"weight": 0.3}} for folder in folders[1:]]
    recipe = {"base_model": folders[0], "models": experts, "merge_method": "task_arithmetic"}
    planned = run(PLAN, json.dumps({**recipe, "quantization": quantization}), str(file))
    cpu, wall, peak, tensors, units, _, size = planned
    seconds, memory = run(OPEN, str(file))
    counts = f"{tensors:,.0f} | {units:,.0f}"
    return f"{counts} | {cpu:.1f} | {wall:.1f} | {peak:,.0f} | {size:.1f} | {seconds:.2f} | {memory:,.0f}"


def run(script: str, *arguments: str) -> list[float]:
    command = [sys.executable, "-c", script, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    if done.returncode:
        sys.exit(done.stderr)
    figures: list[float] = json.loads(done.stdout)
    return figures


if __name__ == "__main__":
    main()
