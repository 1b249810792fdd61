"""Read a model from a local S3 server, alone and beside element-wise arithmetic in the same process.

    python benchmarks/s3_reading.py [--tree OLDER_CHECKOUT]

Units of three models' ranges of 64 MiB, two at a time, as a merge reads them ahead: into memory that stays, and into
scratch files. Beside them, threads add task deltas in chunks as units do. The server is s3_server.py in a process of
its own; what is read lies in its page cache. Each line is the median of the runs, which take turns. ``--tree``
measures the package of another checkout, in turns with this one's; its rates are the comparison, since both share the
cores with the server and with whatever else runs.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).resolve().parents[1]
MIB = 1 << 20
CHUNK = 1 << 18
FILES = 3
SIZE = 64 * MIB  # of a unit's range of one model
STAYS, SCRATCH = "memory that stays", "scratch files"


@contextmanager
def server(folder: Path, *flags: str) -> Iterator[str]:
    command = [sys.executable, str(Path(__file__).with_name("s3_server.py")), str(folder), *flags]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
    finally:
        process.terminate()
        process.wait()


class Arithmetic:
    """Threads that merge chunks until ``stop``. ``cpu``: their processor seconds; ``chunks``: how many they merged."""

    def __init__(self, threads: int) -> None:
        import torch

        self._base = torch.randn(64 * CHUNK).bfloat16()
        self._experts = [torch.randn(64 * CHUNK).bfloat16() for _ in range(FILES - 1)]
        self.cpu, self.chunks, self._over = 0.0, 0, threading.Event()
        self._threads = [threading.Thread(target=self._merge) for _ in range(threads)]
        for thread in self._threads:
            thread.start()

    def _merge(self) -> None:
        import torch

        number, began = 0, time.thread_time()
        while not self._over.is_set():
            start = number % 64 * CHUNK
            base = self._base[start : start + CHUNK].float()
            deltas = [expert[start : start + CHUNK].float().sub_(base) for expert in self._experts]
            total = torch.add(base, deltas[0].mul_(0.5).add_(deltas[1], alpha=0.5))
            torch.aminmax(total)
            total.bfloat16()
            number += 1
        self.cpu += time.thread_time() - began
        self.chunks += number

    def stop(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()


def measure(units: int, parallel: int, ahead: int, beside: list[int]) -> Iterator[tuple[str, int, float, float, float]]:
    """Where the bytes land, merging threads, and of reading: GB/s, CPU seconds a GB, chunks merged a second."""
    import torch

    torch.set_num_threads(1)
    from svc_dist.storage.open import open_storage
    from svc_dist.storage.reading import ByteRange, Source, map_ranges

    places = {SCRATCH: ()}
    try:
        from svc_dist.run.host import available_memory
        from svc_dist.storage.landing import Landing

        places = {STAYS: (Landing(available_memory() // 4, available_memory),), **places}
    except ImportError:  # a checkout that has scratch files only
        pass
    storage = open_storage("s3://bucket/model")
    files = [file for number in range(FILES) if (file := storage.stat(f"{number}")) is not None]
    source = Source("s3://bucket/model", files)

    def read(place: tuple[object, ...], units: int) -> None:
        def one(unit: int) -> None:
            span = (unit * SIZE, (unit + 1) * SIZE)
            ranges = [ByteRange(f"{number}", *span) for number in range(FILES)]
            with map_ranges([source], [ranges], None, parallel, *place):  # type: ignore[arg-type]
                pass

        with ThreadPoolExecutor(ahead) as pool:
            list(pool.map(one, range(units)))

    for name, place in places.items():
        read(place, ahead)  # connections, and pages of memory that stays
        for threads in beside:
            arithmetic = Arithmetic(threads)
            before, began = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
            read(place, units)
            seconds = time.perf_counter() - began
            arithmetic.stop()
            after = resource.getrusage(resource.RUSAGE_SELF)
            cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime - arithmetic.cpu
            gigabytes = FILES * SIZE * units / 1e9
            yield name, threads, gigabytes / seconds, cpu / gigabytes, arithmetic.chunks / seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--units", type=int, default=8)
    parser.add_argument("--parallel", type=int, default=16)
    parser.add_argument("--ahead", type=int, default=2, help="units that are read at the same time")
    parser.add_argument("--beside", type=int, nargs="*", default=[0, 1, 2], help="numbers of merging threads")
    parser.add_argument("--tree", type=Path, action="append", default=[], help="another checkout to compare with")
    parser.add_argument("--tls", type=Path, metavar="FILE", help="certificate and key, as s3_server.py takes them")
    parser.add_argument("--work", type=Path, default=Path("/dev/shm"), help="folder for the model")
    parser.add_argument("--one", action="store_true", help="measure once, print JSON; the server is running")
    options = parser.parse_args()
    if options.one:
        for values in measure(options.units, options.parallel, options.ahead, options.beside):
            print(json.dumps(values), flush=True)
        return
    environment = os.environ | {
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    flags = [f"--units={options.units}", f"--parallel={options.parallel}", f"--ahead={options.ahead}", "--one"]
    command = [sys.executable, __file__, *flags, "--beside", *map(str, options.beside)]
    results = dict[tuple[Path, str, int], list[tuple[float, ...]]]()
    secured = [] if options.tls is None else ["--tls", str(options.tls)]
    if options.tls is not None:
        environment["AWS_CA_BUNDLE"] = str(options.tls)
    with tempfile.TemporaryDirectory(dir=options.work) as folder:
        model = Path(folder) / "bucket" / "model"
        model.mkdir(parents=True)
        for number in range(FILES):
            (model / f"{number}").write_bytes(os.urandom(MIB) * (SIZE * options.units // MIB))
        with server(Path(folder), *secured) as environment["AWS_ENDPOINT_URL"]:
            for _ in range(options.runs):
                for tree in (HERE, *options.tree):
                    one = environment | {"PYTHONPATH": str(tree)}
                    done = subprocess.run(command, env=one, check=True, stdout=subprocess.PIPE, text=True)
                    for name, threads, *values in map(json.loads, done.stdout.splitlines()):
                        results.setdefault((tree, name, threads), []).append(tuple(values))
    for (tree, name, threads), values in sorted(results.items(), key=lambda entry: (entry[0][2], entry[0][1])):
        rate, cpu, merged = (statistics.median(value[field] for value in values) for field in range(3))
        what = "alone" if not threads else f"beside {threads} merging thread{'s' * (threads > 1)}"
        where = "this tree" if tree == HERE else str(tree)
        figures = f"{rate * 1000:6.0f} MB/s, {cpu:.2f} CPU s/GB, {merged:.0f} chunks merged a second"
        print(f"{what:26s} {where:20s} {name:18s} {figures}")


if __name__ == "__main__":
    main()
