"""Compare a spectral merge with one slot, with several slots and on Ray, in turns, with the simulation's prediction.

    python benchmarks/checkpoints.py models --layers 4 --vocabulary 8000
    python benchmarks/scaling.py models

``svc-dist measure-host`` measures the machine before the runs and after them, because its speed drifts; each command
runs from process start to published model, with its inputs in the page cache. Run nothing else meanwhile.

    python benchmarks/scaling.py --simulate

simulates Llama 3 70B with three experts under SVC on growing clusters instead, from headers alone; --recipe, --shape
and --experts choose another merge. *Floor* is the larger of all computing and all transfers, plus start and end.
*Efficiency* is one GPU's seconds over those of all GPUs together; *of the work*: the same without start and end.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.merge import environment, warm, write_recipe

COMMAND = [sys.executable, "-m", "svc_dist"]
STEPS = [(1, 1), (1, 2), (1, 4), (1, 8), (2, 8), (4, 8), (8, 8)]


def measure(options: argparse.Namespace) -> None:
    """Run real merges and compare them with their predictions."""
    work: Path = options.work
    work.mkdir(exist_ok=True)
    recipe, output = work / "scaling.yaml", work / "scaling"
    calibrate = {"calibrate": options.calibrate} if options.calibrate else {}
    write_recipe(recipe, options.models, options.method, {}, calibrate)
    hosts = [calibrated(work, "before")]
    many = str(options.slots)
    commands = {
        "inline, 1 slot": ["--executor", "inline", "--slots", "1"],
        f"inline, {many} slots": ["--executor", "inline", "--slots", many],
        f"Ray, {many} slots": ["--executor", "ray", "--slots", many],
    }
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for run in range(options.runs):
        for name, flags in commands.items():
            if run and "1 slot" in name:  # the longest command runs only once
                continue
            shutil.rmtree(output, ignore_errors=True)
            warm(options.models)
            began = time.perf_counter()
            done = subprocess.run(
                [*COMMAND, "merge", str(recipe), str(output), *flags], capture_output=True, text=True, env=environment()
            )
            seconds[name].append(time.perf_counter() - began)
            if done.returncode:
                sys.exit(f"{name} failed:\n{done.stderr}")
            stages = json.loads((output / "merge_report.json").read_text())["unit_seconds"]
            spent = ", ".join(f"{stage} {value:.1f}" for stage, value in stages.items())
            print(f"{name:16s} {seconds[name][-1]:7.1f} s (seconds in units: {spent})", flush=True)
    shutil.rmtree(output, ignore_errors=True)
    hosts.append(calibrated(work, "after"))
    one, several, on_ray = (statistics.median(values) for values in seconds.values())
    print(f"\nmedians of {options.runs}: {one:.1f} s, {several:.1f} s, on Ray {on_ray:.1f} s")
    print(f"scaling 1 -> {many} slots: {one / several:.2f}; Ray over inline: {on_ray / several - 1:+.1%}")
    for slots, measured in ((1, one), (options.slots, several)):
        each = [predicted_by(recipe, host, slots) for host in hosts]
        predicted = statistics.mean(each)
        print(f"  predicted from each measurement of the machine: {each[0]:.1f} s, {each[1]:.1f} s")
        print(f"{slots} slots: predicted {predicted:.1f} s, measured {measured:.1f} s: {predicted / measured - 1:+.1%}")


def calibrated(work: Path, when: str) -> Path:
    """Measure the machine; return the file with its rates."""
    host = work / f"host-{when}.json"
    began = time.perf_counter()
    subprocess.run([*COMMAND, "measure-host", str(host), "--folder", str(work)], check=True)
    rates = json.loads(host.read_text())
    gains = {
        kind: rates["lanes"] * rates["crowded"][kind] / rates["alone"][kind]
        for kind in ("float64", "float32", "elementwise")
    }
    gains["eigen"] = rates["lanes"] * rates["alone"]["eigen"][-1][1] / rates["crowded"]["eigen"][-1][1]
    listed = ", ".join(f"{kind} {gain:.2f}" for kind, gain in gains.items())
    print(
        f"measured the machine {when} in {time.perf_counter() - began:.0f} s; all lanes over one: {listed}", flush=True
    )
    return host


def predicted_by(recipe: Path, host: Path, slots: int) -> float:
    """Seconds that the simulation predicts."""
    spec = f"host={host},slots={slots},cache=warm"
    command = [*COMMAND, "plan", str(recipe), "--cluster", spec, "--json"]
    return float(json.loads(subprocess.run(command, capture_output=True, check=True).stdout)["seconds"])


def simulate(options: argparse.Namespace) -> None:
    """Simulate the plan of a recipe in pipelines/ on 1 to 64 GPUs, for models of one shape."""
    import yaml

    from svc_dist.api import make_plan
    from svc_dist.forecast.cluster import parse_cluster
    from svc_dist.forecast.prediction import predict
    from tests.support.checkpoints import MODELS, sparse_checkpoint

    recipe: dict[str, Any] = yaml.safe_load(
        (Path(__file__).resolve().parents[1] / f"pipelines/{options.recipe}.yaml").read_text()
    )
    with tempfile.TemporaryDirectory() as folder:
        shapes, count = MODELS[options.shape](), options.experts + 1
        models = [str(sparse_checkpoint(Path(folder) / str(n), shapes)) for n in range(count)]
        recipe["base_model"] = models[0]
        recipe["models"] = [recipe["models"][0] | {"model": path} for path in models[1:]]
        plan = make_plan(recipe, device="cuda")
    for net in options.net:
        head = ("nodes x GPUs", "seconds", "floor", "efficiency", "of the work", "compute", "read", "write", "bound by")
        print(f"\n{options.gpu}, {net} a node\n| {' | '.join(head)} |\n{'|---' * len(head)}|")
        first = 0.0
        for nodes, gpus in STEPS:
            found = predict(plan, parse_cluster(f"nodes={nodes},gpus={gpus},gpu={options.gpu},net={net}"))
            first = first or found.seconds
            outside = found.bounds["start and end"]
            gain, of_work = first / found.seconds, (first - outside) / (found.seconds - outside)
            floor = max(found.bounds[name] for name in ("compute", "read", "write")) + outside
            busy = " | ".join(f"{share:.0%}" for share in found.utilisation.values())
            print(
                f"| {nodes} x {gpus} | {found.seconds:.0f} | {floor:.0f} | {gain / nodes / gpus:.0%} "
                f"| {of_work / nodes / gpus:.0%} | {busy} "
                f"| {found.bottleneck} |"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path, nargs="?", help="folder that checkpoints.py wrote")
    parser.add_argument("--method", default="task_arithmetic")
    parser.add_argument("--calibrate", default="svc", help="calibration; empty for none")
    parser.add_argument("--slots", type=int, default=2)
    parser.add_argument("--runs", type=int, default=2)
    parser.add_argument("--work", type=Path, default=Path("benchmark-work"))
    parser.add_argument("--simulate", action="store_true")
    parser.add_argument("--gpu", default="h100")
    parser.add_argument("--recipe", default="llama-70b-svc", help="with --simulate: in pipelines/")
    parser.add_argument("--shape", default="llama-3-70b", help="with --simulate: of all models")
    parser.add_argument("--experts", type=int, default=3, help="with --simulate")
    parser.add_argument("--net", nargs="+", default=["25Gbps", "100Gbps"])
    options = parser.parse_args()
    if options.simulate:
        simulate(options)
    elif options.models is None:
        parser.error("give the folder of the models, or --simulate")
    else:
        measure(options)


if __name__ == "__main__":
    main()
