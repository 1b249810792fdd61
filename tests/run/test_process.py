"""What units need of their process is set before the first and undone after the last: results never depend on it."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from threadpoolctl import threadpool_info

import svc_dist
from svc_dist.linalg.threads import load_lapack
from svc_dist.run import process
from tests.support.checkpoints import write_checkpoint, write_llamas, write_recipe
from tests.support.command import environment

#: Forks processes in which nothing has been computed yet. In each, two to four threads compute the first units.
SIDE_BY_SIDE = """
import hashlib, os, sys, time
from pathlib import Path

import torch
from threadpoolctl import threadpool_limits

import svc_dist
import svc_dist.run.session, svc_dist.run.unit

recipe, folder, processes, limited = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])

def merged(number):
    output = folder / str(number)
    time.sleep(number % 5 * 0.01)
    svc_dist.merge(recipe, output, executor="inline", slots=2 + number % 3)
    files = sorted(output.glob("*.safetensors"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()

def started(number):
    reading, writing = os.pipe()
    if os.fork() == 0:
        if limited:
            with threadpool_limits(limited):
                digest = merged(number)
        else:
            digest = merged(number)
        os.write(writing, digest.encode())
        os._exit(0)
    os.close(writing)
    return os.fdopen(reading)

digests = set()
for number in range(0, processes, 2):
    digests |= {file.read() for file in [started(number), started(number + 1)]}
print(*sorted(digests))
"""


#: The same for calls of ``merge_deltas`` from several threads: every decomposition, in another order in each thread.
CALLS_SIDE_BY_SIDE = """
import hashlib, os, sys, threading, time
from contextlib import nullcontext

import torch
from threadpoolctl import threadpool_limits

from svc_dist.api import merge_deltas

processes, limited = int(sys.argv[1]), int(sys.argv[2])
random = torch.Generator().manual_seed(3)
square = [torch.randn(160, 160, generator=random) for _ in range(3)]
tall = [torch.randn(200, 96, generator=random) for _ in range(3)]
alike = [square[0] + 1e-5 * delta for delta in square]  # no Gram matrix tells them apart
few = [torch.randn(4, 160, generator=random) for _ in range(3)]
calls = [
    ("task_arithmetic", square, {"calibrate": "svc", "precision": "mixed"}),
    ("task_arithmetic", tall, {"calibrate": {"method": "svc", "side": "right"}, "precision": "mixed"}),
    ("task_arithmetic", tall, {"calibrate": "svc", "precision": "float64"}),
    ("tsv_m", alike, {"precision": "mixed"}), ("tsv_m", square, {"precision": "float64"}),
    ("iso_c", square, {"precision": "mixed"}), ("iso_cts", tall, {"precision": "mixed"}),
    ("star", tall, {"precision": "mixed"}), ("optmerge", tall, {"precision": "mixed", "steps": 2}),
    ("swudi", square, {"precision": "fast"}), ("swudi_a", tall, {"precision": "mixed"}),
    ("swudi", few, {"precision": "mixed"}),
]

def digests(threads, delay):
    found, barrier = set(), threading.Barrier(threads)

    def work(number):
        torch.set_num_threads(1)
        barrier.wait()
        time.sleep(number * delay)
        for place in range(len(calls)):
            index = (place + number) % len(calls)
            method, deltas, given = calls[index]
            merged = merge_deltas(deltas, method, **given)
            found.add(f"{index}:{hashlib.sha256(merged.numpy().tobytes()).hexdigest()[:16]}")

    with threadpool_limits(limited) if limited else nullcontext():
        started = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
        [thread.start() for thread in started]
        [thread.join() for thread in started]
    return " ".join(sorted(found))

for number in range(processes):
    reading, writing = os.pipe()
    if os.fork() == 0:
        os.write(writing, digests(2 + number * 3 % 7, number % 5 * 0.004).encode())
        os._exit(0)
    os.close(writing)
    print(os.fdopen(reading).read())
    os.wait()
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    generator = torch.Generator().manual_seed(3)
    models = [
        write_checkpoint(
            folder / name, {f"layers.{n}.proj.weight": torch.randn(384, 384, generator=generator) for n in range(4)}
        )
        for name in ("base", "expert0", "expert1")
    ]
    return write_recipe(folder / "recipe.yaml", models, calibrate="svc")


@pytest.fixture(scope="module")
def small_recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For what does not depend on the work: more threads than cores take long over it."""
    folder = tmp_path_factory.mktemp("small")
    return write_recipe(folder / "recipe.yaml", write_llamas(folder), calibrate="svc")


@pytest.mark.parametrize(
    ("processes", "limited"),
    [
        (4, 2),
        pytest.param(12, 0, marks=pytest.mark.slow),
        pytest.param(60, 0, marks=pytest.mark.slow),
        pytest.param(20, 3, marks=pytest.mark.slow),
    ],
)
def test_the_first_units_side_by_side_in_new_processes_give_the_same_bytes(
    recipe: Path, tmp_path: Path, processes: int, limited: int
) -> None:
    arguments = [sys.executable, "-c", SIDE_BY_SIDE, str(recipe), str(tmp_path), str(processes), str(limited)]
    done = subprocess.run(
        arguments, env=environment(tmp_path), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=1200
    )
    assert done.returncode == 0, done.stderr
    digests = done.stdout.split()
    assert len(digests) == 1
    assert len(digests[0]) == 64


@pytest.mark.parametrize(
    ("processes", "limited"),
    [
        (2, 2),
        pytest.param(4, 0, marks=pytest.mark.slow),
        pytest.param(60, 0, marks=pytest.mark.slow),
        pytest.param(20, 3, marks=pytest.mark.slow),
    ],
)
def test_first_calls_from_several_threads_of_new_processes_give_the_same_bytes(
    processes: int, limited: int, tmp_path: Path
) -> None:
    arguments = [sys.executable, "-c", CALLS_SIDE_BY_SIDE, str(processes), str(limited)]
    done = subprocess.run(
        arguments, env=environment(tmp_path), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=1200
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == processes
    assert len(set(lines)) == 1
    assert len(lines[0].split()) == 12, "one result of each call, whichever thread made it"


def settings_of_this_process() -> dict[str, Any]:
    log = logging.getLogger("svc_dist")
    with ThreadPoolExecutor(1) as pool:
        in_new_thread = pool.submit(torch.get_num_threads).result()
    return {
        "threads": (torch.get_num_threads(), in_new_thread),
        "blas": {library["filepath"]: library["num_threads"] for library in threadpool_info()},
        "environment": dict(os.environ),
        "signals": [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)],
        "log": (log.level, list(log.handlers), log.propagate, list(logging.getLogger().handlers)),
        "excepthook": sys.excepthook,
        "cwd": Path.cwd(),
        "grad": torch.is_grad_enabled(),
    }


@pytest.mark.usefixtures("two_threads")
def test_a_library_call_leaves_the_process_as_it_was(
    small_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> None:
        raise AssertionError("this cannot be undone")

    monkeypatch.setattr(process, "return_freed_memory", refuse)
    load_lapack()
    before = settings_of_this_process()
    svc_dist.merge(small_recipe, tmp_path / "out", executor="inline", threads_per_unit=3)
    assert settings_of_this_process() == before
    svc_dist.inspect(small_recipe)
    assert settings_of_this_process() == before
    svc_dist.merge_deltas([torch.ones(8, 8), torch.eye(8)], "iso_c")
    assert settings_of_this_process() == before


@pytest.mark.usefixtures("two_threads")
def test_units_compute_with_the_threads_of_the_plan(
    small_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import svc_dist.run.unit as unit

    load_lapack()
    run, numbers = unit.run_unit, set()

    def counted(*arguments: Any) -> Any:
        numbers.add(torch.get_num_threads())
        numbers.update(library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas")
        return run(*arguments)

    monkeypatch.setattr(unit, "run_unit", counted)
    svc_dist.merge(small_recipe, tmp_path / "out", executor="inline", threads_per_unit=3)
    assert numbers == {3}
