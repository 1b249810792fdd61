"""Compare a merge from S3 to S3 with a plain copy of the same bytes by s3fs, in turns, on a local SeaweedFS.

    pip install s3fs
    python benchmarks/checkpoints.py models --layers 4 --vocabulary 4000 --shards 4
    python benchmarks/s3.py models

The copy downloads base and experts to a folder and uploads one model, with 16 files or parts in parallel (s3fs's
``batch_size`` and ``max_concurrency``). The seconds are measured inside each program; the difference from the whole
command is the start of Python and the imports. The server runs on the same machine.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

COPY = """
import sys, time
from pathlib import Path
import s3fs
source, output, folder, result = sys.argv[1:]
fs = s3fs.S3FileSystem(max_concurrency=16, use_listings_cache=False)
began = time.perf_counter()
remote = [path for path in fs.find(source) if "/ours/" not in path and "/copy/" not in path]
local = [str(Path(folder) / path.removeprefix(source).lstrip("/")) for path in remote]
fs.get(remote, local, batch_size=16)
model = [path for path in local if Path(path).parent.name == "base"]
fs.put(model, [f"{output}/{Path(path).name}" for path in model], batch_size=16)
Path(result).write_text(str(time.perf_counter() - began))
"""
MERGE = """
import sys
from pathlib import Path
import svc_dist
recipe, output, slots, result = sys.argv[1:]
report = svc_dist.merge(recipe, output, slots=int(slots), executor="inline")
Path(result).write_text(str(report.seconds))
"""


def main() -> None:
    from benchmarks.merge import measure
    from tests.support.s3_servers import Bucket, SeaweedFS

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path, help="folder that checkpoints.py wrote")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--slots", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--method", default="task_arithmetic")
    parser.add_argument("--work", type=Path, help="folder for the server and the copy (default: a temporary one)")
    options = parser.parse_args()

    files = sorted(file for file in options.models.glob("*/*") if file.is_file())
    size = sum(file.stat().st_size for file in files) * (1 + 1 / len({file.parent for file in files}))
    work = Path(tempfile.mkdtemp(dir=options.work))
    try:
        with SeaweedFS(work / "server") as server:
            os.environ.update(server.environment)
            bucket = Bucket(server, "benchmark")
            server.make_bucket(bucket.name)
            client = bucket.client()
            for file in files:
                with file.open("rb") as body:
                    client.put_object(Bucket=bucket.name, Key=str(file.relative_to(options.models)), Body=body)
            recipe = write_recipe(work / "recipe.yaml", bucket.url, options)
            result = work / "seconds"
            seconds: dict[str, list[float]] = {}
            ratios: dict[str, list[float]] = {}
            python = [sys.executable, "-c"]
            for number in range(options.runs):
                for slots in options.slots:
                    name = f"merge, {slots} slot{'s' * (slots > 1)}"
                    copied = [*python, COPY, bucket.name, f"{bucket.name}/copy/{number}-{slots}", work / "copy", result]
                    merged = [*python, MERGE, recipe, f"{bucket.url}/ours/{number}-{slots}", slots, result]
                    pair = []
                    for title, command in (("copy", copied), (name, merged)):
                        run = measure([str(word) for word in command])
                        pair.append(float(result.read_text()))
                        seconds.setdefault(title, []).append(pair[-1])
                        print(
                            f"{title:16s} {pair[-1]:6.2f} s, {size / pair[-1] / 1e6:5.0f} MB/s; whole command "
                            f"{run.wall:.2f} s, CPU {run.cpu:.2f} s, anonymous {run.anonymous:.0f} MiB",
                            flush=True,
                        )
                        shutil.rmtree(work / "copy", ignore_errors=True)
                    ratios.setdefault(name, []).append(pair[0] / pair[1])
    finally:
        shutil.rmtree(work)
    print(f"\nmedian of {options.runs}; {size / 1e9:.2f} GB in and out; {options.method}")
    for title, values in seconds.items():
        print(f"{title:16s} {statistics.median(values):6.2f} s")
    for title, values in ratios.items():
        listed = ", ".join(f"{value:.0%}" for value in values)
        print(f"{title}: {statistics.median(values):.0%} of the copy's throughput, pair by pair {listed}")


def write_recipe(file: Path, url: str, options: argparse.Namespace) -> Path:
    experts = sorted(path.name for path in options.models.iterdir() if path.name.startswith("expert"))
    models = [{"model": f"{url}/{name}", "parameters": {"weight": 0.3}} for name in experts]
    recipe = {"base_model": f"{url}/base", "models": models, "merge_method": options.method, "dtype": "bfloat16"}
    file.write_text(json.dumps(recipe))
    return file


if __name__ == "__main__":
    main()
