"""Killed while units are read ahead, computed and written behind, from S3 to S3: inline, and in GPUs' processes."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.checkpoints import write_checkpoint
from tests.support.dying import start
from tests.support.fault_proxy import Fault, FaultProxy, Kind
from tests.support.pretended_gpus import pretend_gpus, ran_on
from tests.support.ray_cluster import PATIENCE, Merge, RayCluster, ray_cluster
from tests.support.s3_kills import COMMAND
from tests.support.s3_merge import Models, S3Merge, Starts, models_in
from tests.support.s3_servers import Bucket, SeaweedFS

pytestmark = pytest.mark.slow
UNITS = 40
KEYS: dict[str, Any] = {"calibrate": "svc", "max_shard_size": "110KB"}


def write_matrices(folder: Path) -> list[Path]:
    """Base and two experts: one unit a shard, each of which is decomposed."""
    models = []
    for seed, model in enumerate(("base", "expert0", "expert1")):
        chance = torch.Generator().manual_seed(seed)
        tensors = {
            f"layers.{number}.weight": torch.randn(256, 200, generator=chance).bfloat16() for number in range(UNITS)
        }
        models.append(write_checkpoint(folder / model, tensors, shards=3, config={"torch_dtype": "bfloat16"}))
    return models


@pytest.fixture(scope="module")
def matrices(seaweed: SeaweedFS, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Models]:
    with models_in(seaweed, tmp_path_factory.mktemp("models"), write_matrices, KEYS, (UNITS, UNITS)) as models:
        yield models


class Strikes:
    """Merges that are started over and over, each killed at some request; ``midway``: with receipts, but not all."""

    def __init__(self, bucket: Bucket, models: Models, proxy: FaultProxy, seed: int) -> None:
        self._bucket, self._models, self._proxy = bucket, models, proxy
        self.random = random.Random(seed)
        self.kills = self.midway = self._rounds = 0
        self.parallel = 0  # units whose parts were sent before a kill, without a receipt
        self._elsewhere()

    def _elsewhere(self) -> None:
        self.merge = S3Merge(self._bucket, self._models, f"merged{self._rounds}")
        self.starts = Starts(self.merge, self._proxy)
        self._rounds += 1
        self._proxy.forget()

    @property
    def endpoint(self) -> str:
        return self._proxy.endpoint

    def wait(self, ended: Callable[[], object], least: int, most: int) -> None:
        """Until a start has sent some number of requests from now on, or has ended."""
        last, end = len(self._proxy.requests) + self.random.randrange(least, most), time.monotonic() + PATIENCE
        while len(self._proxy.requests) < last and not ended():
            assert time.monotonic() < end
            time.sleep(0.002)

    def count(self, ended: int) -> None:
        """Hold what a start left that ended with this code: complete, or killed and resumable."""
        assert ended in (0, -signal.SIGKILL)
        before = len(self.starts.receipts)
        sent = self.merge.parts_sent(self._proxy.requests)
        self.starts.check()
        now = len(self.starts.receipts)
        self.kills += ended != 0
        self.midway += ended != 0 and before < now < UNITS
        self.parallel = max(self.parallel, len(sent) - (now - before))
        if ended == 0:
            self.merge.require_complete()
            self._elsewhere()

    def finish(self) -> None:
        report = self.merge.run(self._proxy.endpoint)
        assert report.units_resumed >= len(self.starts.receipts)
        self.merge.require_complete()


@pytest.fixture
def proxy(disk_s3: Bucket) -> Iterator[FaultProxy]:
    with FaultProxy(disk_s3.server.endpoint, [Fault(Kind.LATENCY, seconds=0.02)]) as proxy:
        yield proxy


def test_twenty_five_kills_inline(disk_s3: Bucket, matrices: Models, proxy: FaultProxy) -> None:
    strikes = Strikes(disk_s3, matrices, proxy, seed=1)
    while strikes.kills < 25:
        process = start(strikes.merge.recipe, strikes.merge.url, AWS_ENDPOINT_URL=strikes.endpoint)
        strikes.wait(partial(has_ended, process), 150, 450)
        process.kill()
        process.join()
        strikes.count(process.exitcode or 0)
    strikes.finish()
    assert strikes.midway >= 8
    assert strikes.parallel > 1, "several units were being written when a kill struck"


def has_ended(process: BaseProcess) -> bool:
    return process.exitcode is not None


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_fifteen_kills_with_the_processes_of_a_cluster(
    disk_s3: Bucket, matrices: Models, proxy: FaultProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    """In each start processes are killed, with all units that they have in their stages, then the command."""
    site, notes = pretend_gpus(tmp_path / "site")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [site, os.environ.get("PYTHONPATH")])))
    strikes = Strikes(disk_s3, matrices, proxy, seed=2)
    processes = 0
    with ray_cluster(0) as cluster:
        cluster.wait_for(cluster.node(1, "--num-cpus=2", f"--num-gpus={2 if device == 'cuda' else 0}"))
        while strikes.kills + processes < 15:
            killed, code = struck(cluster, strikes, tmp_path / "recipe.yaml", device)
            processes += killed
            strikes.count(code)
            wait_for_the_end_of_processes(cluster)
        with begun(cluster, strikes, tmp_path / "recipe.yaml", device) as merge:
            assert merge.ends() == 0, merge.said
        strikes.count(0)
    assert len({one.device for one in ran_on(notes)}) == (2 if device == "cuda" else 0)
    assert processes >= 5
    assert strikes.midway >= 2


def begun(cluster: RayCluster, strikes: Strikes, recipe: Path, device: str) -> AbstractContextManager[Merge]:
    """One start on the cluster."""
    arguments = [strikes.merge.write_recipe(recipe), strikes.merge.url, "--endpoint-url", strikes.endpoint]
    return cluster.merge(*arguments, "--device", device, program=[sys.executable, "-c", COMMAND])


def struck(cluster: RayCluster, strikes: Strikes, recipe: Path, device: str) -> tuple[int, int]:
    """One start on the cluster. How many processes of units were killed in it, and the exit code of the command."""
    with begun(cluster, strikes, recipe, device) as merge:

        def ended() -> bool:
            return merge.process.poll() is not None

        killed = 0
        for _ in range(2):  # a unit that a third one struck would end the run, as it should
            while not ended() and not unit_processes(cluster):
                time.sleep(0.05)
            strikes.wait(ended, 20, 80)
            killed += 0 if ended() else sum(killed_now(pid) for pid in unit_processes(cluster)[:1])
        strikes.wait(ended, 20, 120)
        merge.process.kill()
        return killed, merge.process.wait()


def unit_processes(cluster: RayCluster) -> list[int]:
    """The processes of units, which Ray calls by the unit that came last, where there was one."""
    return [*cluster.unit_processes(), *cluster.workers("get_ready")]


def killed_now(pid: int) -> bool:
    """Kill a process. Whether it was there."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def wait_for_the_end_of_processes(cluster: RayCluster) -> None:
    """Until no process of a GPU is left that a killed command had started."""
    end = time.monotonic() + PATIENCE
    while unit_processes(cluster):
        assert time.monotonic() < end
        time.sleep(0.1)
