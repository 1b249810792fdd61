"""A worker process stays with the GPU that it began on, as Ray books others for it; no GPU is needed to see that."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import svc_dist
from svc_dist.run.executors import ray as ray_graph
from svc_dist.run.executors.ray_gpu import LINGER, OwnDevice
from svc_dist.run.executors.ray_nodes import start_here
from tests.support.checkpoints import write_llamas, write_recipe
from tests.support.command import shard_hashes, short_home


def test_a_task_of_another_device_ends_the_process() -> None:
    ended = threading.Event()
    device = OwnDevice(ended.set)
    assert device.claim(["1"])
    assert device.claim(["1"])
    assert not ended.wait(2 * LINGER)
    assert not device.claim(["0"])
    assert ended.wait(60)


def test_the_right_task_in_time_keeps_the_process() -> None:
    ended = threading.Event()
    device = OwnDevice(ended.set)
    assert device.claim(["1"])
    assert not device.claim(["0"])
    assert device.claim(["1"])
    assert not ended.wait(2 * LINGER)


def test_a_task_without_a_device_is_at_home_everywhere() -> None:
    device = OwnDevice()
    assert device.claim([])
    assert device.claim(["1"])
    assert device.claim([])


@pytest.fixture
def ray() -> Iterator[Any]:
    """A node with two GPUs, as far as Ray knows, and with CPUs enough that it keeps the processes that are idle."""
    import ray

    with short_home() as home, pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_TMPDIR", str(home))
        start_here(ray, {"num_cpus": 6, "num_gpus": 2, "log_to_driver": False, "logging_level": "warning"})
        yield ray
        ray.shutdown()


def begin_on_a_device(folder: Path) -> int:
    """A task that has its process begin on the device that is booked, and hold it until it is let go. The process."""
    import ray

    (booked,) = ray.get_runtime_context().get_accelerator_ids()["GPU"]
    assert ray_graph._device.claim([booked])
    (folder / f"begun-{booked}").touch()
    while not (folder / f"go-{booked}").exists():
        time.sleep(0.01)
    return os.getpid()


@pytest.mark.slow
def test_no_unit_runs_where_another_gpu_is_in_use(ray: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models = write_llamas(tmp_path / "models", experts=2, layers=2, hidden=64, intermediate=128, vocabulary=100)
    recipe = write_recipe(tmp_path / "recipe.yaml", models, calibrate="svc", max_shard_size="100KB")
    svc_dist.merge(recipe, tmp_path / "inline", executor="inline")
    begin = ray.remote(num_gpus=1, max_calls=0)(begin_on_a_device)
    tasks = [begin.remote(tmp_path) for _ in range(2)]
    processes = {}
    while not all((tmp_path / f"begun-{device}").exists() for device in "01"):
        assert not ray.wait(tasks, timeout=0.05)[0]
    for device in "01":  # Ray takes the process that became idle last, and the device that comes first
        (tmp_path / f"go-{device}").touch()
        (ended,), tasks = ray.wait(tasks)
        processes[device] = ray.get(ended)
    # Computes on the CPU, and books a whole GPU for its one unit at a time.
    monkeypatch.setattr(ray_graph.RayExecutor, "_resources", lambda *_: {"num_cpus": 1, "num_gpus": 1})
    done = svc_dist.merge(recipe, tmp_path / "out", executor="ray", slots=1)
    assert done.retries == 0
    assert shard_hashes(tmp_path / "out") == shard_hashes(tmp_path / "inline")
    assert not Path(f"/proc/{processes['1']}").exists(), "it was booked for the first GPU, and is on the second"
    assert Path(f"/proc/{processes['0']}").exists()
