"""Killed while units are read ahead, computed and written behind, from S3 to S3: inline, and in GPUs' processes."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.checkpoints import write_checkpoint
from tests.support.dying import start
from tests.support.fault_proxy import Fault, FaultProxy, Kind
from tests.support.pretended_gpus import pretend_gpus, ran_on
from tests.support.ray_cluster import PATIENCE, RayCluster, ray_cluster
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

    def requests(self) -> int:
        return len(self._proxy.requests)

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
        process = start(strikes.merge.recipe, strikes.merge.url, AWS_ENDPOINT_URL=proxy.endpoint)
        last = strikes.random.randrange(150, 450)
        while strikes.requests() < last and process.exitcode is None:
            time.sleep(0.002)
        process.kill()
        process.join()
        strikes.count(process.exitcode or 0)
    strikes.finish()
    assert strikes.midway >= 8
    assert strikes.parallel > 1, "several units were being written when a kill struck"


def test_fifteen_kills_with_the_processes_of_gpus(
    disk_s3: Bucket, matrices: Models, proxy: FaultProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command is killed, or a GPU's process, with all units that it has in its stages."""
    site, notes = pretend_gpus(tmp_path / "site")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [site, os.environ.get("PYTHONPATH")])))
    strikes = Strikes(disk_s3, matrices, proxy, seed=2)
    with ray_cluster(0) as cluster:
        cluster.wait_for(cluster.node(1, "--num-cpus=4", "--num-gpus=2"))
        while strikes.kills < 15:
            strikes.count(struck(cluster, strikes, proxy, tmp_path / "recipe.yaml"))
            wait_for_the_end_of_processes(cluster)
    assert len({one.device for one in ran_on(notes)}) == 2
    strikes.finish()
    assert strikes.midway >= 5


def struck(cluster: RayCluster, strikes: Strikes, proxy: FaultProxy, recipe: Path) -> int:
    """One start on the cluster, during which a process of a GPU or the command is killed. Its exit code."""
    command = [sys.executable, "-c", COMMAND, "merge", strikes.merge.write_recipe(recipe), strikes.merge.url]
    command += ["--address", cluster.address, "--device", "cuda", "--endpoint-url", proxy.endpoint]
    last, of_process = strikes.requests() + strikes.random.randrange(120, 420), strikes.random.random() < 0.3
    with subprocess.Popen(command, env=cluster.environment, stderr=subprocess.DEVNULL) as started:
        try:
            end = time.monotonic() + PATIENCE
            while strikes.requests() < last and started.poll() is None:
                assert time.monotonic() < end
                time.sleep(0.002)
            if of_process:
                for pid in cluster.workers("DeviceProcess")[:1]:
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                return started.wait(PATIENCE)
            started.kill()
            return started.wait()
        finally:
            started.kill()


def wait_for_the_end_of_processes(cluster: RayCluster) -> None:
    """Until no process of a GPU is left that a killed command had started."""
    end = time.monotonic() + PATIENCE
    while cluster.workers("DeviceProcess"):
        assert time.monotonic() < end
        time.sleep(0.1)
