"""Eight GPUs that Ray is only told of: all are busy, each has one process, and a bad one costs only itself."""

from __future__ import annotations

import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

import svc_dist
from svc_dist.run.placement import PER_DEVICE
from tests.support.checkpoints import write_checkpoint, write_recipe
from tests.support.command import shard_hashes
from tests.support.pretended_gpus import Ran, pretend_gpus, ran_on
from tests.support.ray_cluster import RayCluster, ray_cluster

pytestmark = pytest.mark.slow
GPUS, UNITS = 8, 240
SECONDS = (1.0, 3.0)
SHAPE = (64, 128)
#: A unit for each matrix of this size, which would be one for 5 MiB of them.
PROGRAM = (
    sys.executable,
    "-c",
    f"""
from svc_dist.checkpoint import layout
layout.MIN_RANGE = {2 * SHAPE[0] * SHAPE[1]}
from svc_dist.cli.process import main
main()
""",
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("site")


@pytest.fixture(scope="module")
def cluster(site: Path) -> Iterator[RayCluster]:
    """One node with eight GPUs, and a core for the process of each."""
    pretend_gpus(site)
    with ray_cluster(0, PYTHONPATH=":".join([str(site), *sys.path])) as cluster:
        cluster.wait_for(cluster.node(1, f"--num-cpus={GPUS}", f"--num-gpus={GPUS}"))
        yield cluster


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    models = []
    for seed, model in enumerate(("base", "expert")):
        chance = torch.Generator().manual_seed(seed)
        tensors = {
            f"layers.{number}.weight": torch.randn(SHAPE, generator=chance).bfloat16() for number in range(UNITS)
        }
        models.append(write_checkpoint(folder / model, tensors, config={"torch_dtype": "bfloat16"}))
    return write_recipe(folder / "recipe.yaml", models, calibrate="svc")


@pytest.fixture(scope="module")
def expected(recipe: Path) -> dict[str, str]:
    svc_dist.merge(recipe, recipe.parent / "inline", executor="inline", device="cpu")
    return shard_hashes(recipe.parent / "inline")


class Rate(NamedTuple):
    """How busy devices were from the first unit's start to the last one's end, and how long that took."""

    busy: float
    seconds: float


def rate_of(ran: list[Ran], devices: int) -> Rate:
    seconds = max(one.ended for one in ran) - min(one.began for one in ran)
    return Rate(sum(one.ended - one.began for one in ran) / (PER_DEVICE * devices) / seconds, seconds)


@pytest.mark.parametrize(
    ("sick", "slow"), [((), {}), (("3",), {}), ((), {"5": 2.0})], ids=["all are well", "one is sick", "one is slow"]
)
def test_none_waits_and_nothing_is_lost(
    cluster: RayCluster,
    site: Path,
    recipe: Path,
    expected: dict[str, str],
    tmp_path: Path,
    sick: tuple[str, ...],
    slow: dict[str, float],
) -> None:
    _, notes = pretend_gpus(site, sick, slow, SECONDS)
    began = time.time()
    with cluster.merge(recipe, tmp_path / "out", "--device", "cuda", program=PROGRAM) as merge:
        assert merge.ends() == 0, merge.said
    assert shard_hashes(tmp_path / "out") == expected
    ran = ran_on(notes)
    done = [one for one in ran if one.device not in sick]
    assert sorted(one.unit for one in done) == sorted({one.unit for one in done})
    assert len(done) == UNITS
    processes: dict[str, set[str]] = defaultdict(set)
    for one in ran:
        processes[one.device].add(one.process)
    assert {device: len(used) for device, used in processes.items()} == {str(number): 1 for number in range(GPUS)}
    rate = rate_of(done, GPUS - len(sick))
    waited = min(one.began for one in ran) - began
    print(f"first unit after {waited:.1f} s; then {UNITS} units in {rate.seconds:.1f} s, GPUs busy {rate.busy:.1%}")
    assert rate.busy > 0.8
    if sick:
        assert f"GPU {sick[0]} of" in merge.said
        assert "gets no more units" in merge.said
    else:
        assert '"retries": 0' in merge.said
