"""Eight GPUs that Ray is only told of: all are busy, each has one process, and a bad one costs only itself."""

from __future__ import annotations

import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

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


def busy(ran: list[Ran]) -> float:
    """The share of the time that GPUs were busy, each from its first unit until the last unit of all had ended.

    A process that comes up late is no GPU that waits: the processes share this machine's cores while they start.
    """
    end, first = max(one.ended for one in ran), dict[str, float]()
    for one in ran:
        first[one.device] = min(one.began, first.get(one.device, one.began))
    return sum(one.ended - one.began for one in ran) / PER_DEVICE / sum(end - began for began in first.values())


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
    first, end = min(one.began for one in ran), max(one.ended for one in ran)
    print(f"first unit after {first - began:.1f} s; {UNITS} in {end - first:.1f} s; GPUs busy {busy(done):.1%}")
    assert busy(done) > 0.7, "over 0.9 where no other work uses this machine's cores"
    if sick:
        assert f"GPU {sick[0]} of" in merge.said
        assert "gets no more units" in merge.said
    else:
        assert '"retries": 0' in merge.said
