"""Compare an SVC merge of a whole model with the sequential form of published code.

    python benchmarks/checkpoints.py models
    python benchmarks/pipeline.py models --layers 6

The sequential form reads the models. For each matrix it stacks the deltas in float32, sums them, computes a full SVD
and calibrates (``tests/support/spectral_references.py``), with torch's threads on all cores. The package's form is the
command ``svc-dist merge`` with the same recipe, from process start to published model. ``--layers N`` first writes
smaller models with the first N layers of the given models.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

SEQUENTIAL = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from tests.support import spectral_references as plain

models, output = Path(sys.argv[1]), Path(sys.argv[2])
output.mkdir(parents=True, exist_ok=True)
folders = [models / "base", *sorted(models.glob("expert*"))]
for shard in sorted(folders[0].glob("*.safetensors")):
    files = [safe_open(folder / shard.name, framework="pt") for folder in folders]
    merged = {}
    for name in files[0].keys():
        base, *experts = (file.get_tensor(name).float() for file in files)
        deltas = torch.stack([expert - base for expert in experts])
        delta = 0.3 * deltas.sum(0)
        if base.ndim == 2 and "embed" not in name and "head" not in name:
            delta = plain.svc(delta, deltas)
        merged[name] = (base + delta).bfloat16()
    save_file(merged, output / shard.name, metadata={"format": "pt"})
"""


def shortened(models: Path, folder: Path, layers: int) -> Path:
    """Copy the models in ``models`` to ``folder``, each in one shard, without the layers from ``layers`` on."""
    from safetensors import safe_open
    from safetensors.torch import save_file

    def wanted(name: str) -> bool:
        number = re.search(r"\blayers\.(\d+)\.", name)
        return number is None or int(number[1]) < layers

    for model in sorted(path for path in models.iterdir() if path.is_dir()):
        tensors = {}
        for shard in sorted(model.glob("*.safetensors")):
            with safe_open(shard, framework="pt") as file:
                tensors |= {name: file.get_tensor(name) for name in file.keys() if wanted(name)}  # noqa: SIM118
        (folder / model.name).mkdir(parents=True, exist_ok=True)
        save_file(tensors, folder / model.name / "model.safetensors", metadata={"format": "pt"})
        config = json.loads((model / "config.json").read_text()) | {"num_hidden_layers": layers}
        (folder / model.name / "config.json").write_text(json.dumps(config))
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path, help="folder that checkpoints.py wrote")
    parser.add_argument(
        "--layers", type=int, help="merge only so many of the models' layers, and what is outside of them"
    )
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--flags", default="", help="more options for svc-dist merge")
    parser.add_argument("--work", type=Path, default=Path("benchmark-work"))
    options = parser.parse_args()
    from benchmarks.merge import write_recipe

    options.work.mkdir(exist_ok=True)
    if options.layers is not None:
        options.models = shortened(options.models, options.work / f"layers-{options.layers}", options.layers)
    recipe, ours, theirs = options.work / "svc.yaml", options.work / "pipeline", options.work / "sequential"
    write_recipe(recipe, options.models, "task_arithmetic", {}, {"calibrate": "svc"})
    root = str(Path(__file__).resolve().parents[1])
    commands = {
        "svc-dist": [sys.executable, "-m", "svc_dist", "merge", str(recipe), str(ours), *options.flags.split()],
        "sequential": [sys.executable, "-c", SEQUENTIAL, str(options.models), str(theirs), root],
    }
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(options.runs):
        for name, command in commands.items():
            for folder in (ours, theirs):
                shutil.rmtree(folder, ignore_errors=True)
            began = time.perf_counter()
            subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
            seconds[name].append(time.perf_counter() - began)
            print(f"{name:10s} {seconds[name][-1]:7.1f} s", flush=True)
    ratios = [b / a for a, b in zip(seconds["svc-dist"], seconds["sequential"], strict=True)]
    print(f"{options.layers or 'all'} layers")
    print(f"sequential / svc-dist: median {statistics.median(ratios):.2f} of {options.runs}")


if __name__ == "__main__":
    main()
