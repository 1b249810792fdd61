"""One process a GPU, with GPUs that Ray is only told of: each keeps its device, and one that fails is left alone."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from pathlib import Path

import pytest
import torch

import svc_dist
from svc_dist.errors import RecipeError
from svc_dist.run.executors.ray_process import UnitProcess
from tests.support.checkpoints import write_llamas, write_recipe
from tests.support.command import shard_hashes
from tests.support.pretended_gpus import pretend_gpus, ran_on
from tests.support.ray_cluster import ray_cluster


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_process_whose_torch_can_use_no_gpu_says_why() -> None:
    with pytest.raises(RecipeError, match="torch can use no GPU here: torch"):
        UnitProcess(1, 2, on_device=True).found()


@pytest.mark.slow
@pytest.mark.parametrize("sick", [(), ("1",)])
def test_units_share_the_process_of_their_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sick: tuple[str, ...]
) -> None:
    models = write_llamas(tmp_path / "models", experts=2, layers=6, hidden=64, intermediate=128, vocabulary=1000)
    recipe = write_recipe(tmp_path / "recipe.yaml", models, calibrate="svc", max_shard_size="20KB")
    svc_dist.merge(recipe, tmp_path / "inline", executor="inline", device="cpu")
    site, notes = pretend_gpus(tmp_path / "site", sick, seconds=(1, 2))  # units are left for the last process
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [site, os.environ.get("PYTHONPATH")])))
    with ray_cluster(0) as cluster:
        cluster.wait_for(cluster.node(1, "--num-cpus=6", "--num-gpus=3"))
        with cluster.merge(recipe, tmp_path / "out") as merge:
            assert merge.ends() == 0, merge.said
            said = merge.said
        assert "the cluster has 3 GPUs (pretended, torch" in said
    assert shard_hashes(tmp_path / "out") == shard_hashes(tmp_path / "inline")
    processes: dict[str, set[str]] = defaultdict(set)
    for one in ran_on(notes):
        processes[one.device].add(one.process)
    on_devices = {one.unit for one in ran_on(notes)}
    ranges = json.loads((tmp_path / "out" / "merge_report.json").read_text())["ranges"]
    assert {one["unit"] for one in ranges} > on_devices, "the embedding is merged on cores"
    assert {device: len(used) for device, used in processes.items()} == dict.fromkeys(processes, 1)
    assert len({process for used in processes.values() for process in used}) == len(processes)
    if sick:
        assert "GPU 1 of" in said
        assert "gets no more units" in said
        assert "uncorrectable ECC error" in said
    else:
        assert '"retries": 0' in said
