"""Read a model from a local S3 server, alone and beside element-wise arithmetic in the same process.

    python benchmarks/s3_reading.py

Units of three models' ranges of 64 MiB, one after another, as a merge reads them: into memory that stays, and into
scratch files. Beside them, threads add task deltas in chunks as units do. The server is s3_server.py in a process of
its own; what is read lies in its page cache. Each line is the median of the runs, which take turns.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

MIB = 1 << 20
CHUNK = 1 << 18
FILES = 3


@contextmanager
def server(folder: Path) -> Iterator[str]:
    command = [sys.executable, str(Path(__file__).with_name("s3_server.py")), str(folder)]
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--units", type=int, default=8)
    parser.add_argument("--parallel", type=int, default=16)
    parser.add_argument("--work", type=Path, default=Path("/dev/shm"), help="folder for the model")
    options = parser.parse_args()
    os.environ |= {
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    import torch

    torch.set_num_threads(1)
    from svc_dist.run.host import available_memory
    from svc_dist.storage.landing import Landing
    from svc_dist.storage.open import open_storage
    from svc_dist.storage.reading import ByteRange, Source, map_ranges

    size, results = 64 * MIB, dict[tuple[str, int], list[tuple[float, float]]]()
    with tempfile.TemporaryDirectory(dir=options.work) as folder:
        model = Path(folder) / "bucket" / "model"
        model.mkdir(parents=True)
        for number in range(FILES):
            (model / f"{number}").write_bytes(os.urandom(MIB) * (size * options.units // MIB))
        with server(Path(folder)) as os.environ["AWS_ENDPOINT_URL"]:
            storage = open_storage("s3://bucket/model")
            files = [file for number in range(FILES) if (file := storage.stat(f"{number}")) is not None]
            source = Source("s3://bucket/model", files)
            landing = Landing(available_memory() // 4, available_memory)
            for _ in range(options.runs):
                for beside in (0, 1, 2):
                    for name, place in (("memory that stays", landing), ("scratch files", None)):
                        arithmetic = Arithmetic(beside)
                        before, began = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
                        for unit in range(options.units):
                            span = (unit * size, (unit + 1) * size)
                            ranges = [ByteRange(f"{number}", *span) for number in range(FILES)]
                            with map_ranges([source], [ranges], None, options.parallel, place):
                                pass
                        seconds = time.perf_counter() - began
                        arithmetic.stop()
                        after = resource.getrusage(resource.RUSAGE_SELF)
                        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime - arithmetic.cpu
                        gigabytes = FILES * size * options.units / 1e9
                        results.setdefault((name, beside), []).append((gigabytes / seconds, cpu / gigabytes))
    for (name, beside), values in results.items():
        rate, cpu = (statistics.median(value[field] for value in values) for field in (0, 1))
        what = "alone" if not beside else f"beside {beside} merging thread{'s' * (beside > 1)}"
        print(f"{name:18s} {what:26s} {rate * 1000:6.0f} MB/s, {cpu:.2f} CPU s/GB")


if __name__ == "__main__":
    main()
