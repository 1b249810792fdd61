"""A model with the names and the structure of Llama 3 70B, a sixteenth of its size in each direction, on several hosts.

``pytest -s`` prints times and memory; benchmarks/README.md has them.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import yaml
from safetensors import safe_open
from transformers import AutoModelForCausalLM, LlamaConfig

import svc_dist
from svc_dist.errors import ExitCode
from svc_dist.run.placement import AHEAD
from tests.support.checkpoints import INDEX, MODELS, Shapes, llama_shapes, write_checkpoint
from tests.support.command import shard_hashes, short_home
from tests.support.host_cluster import HostCluster, HostedMerge, done_by
from tests.support.hosts import Host, why_not
from tests.support.s3_files import download, put_models

pytestmark = [pytest.mark.slow, pytest.mark.skipif(why_not() is not None, reason=str(why_not()))]

RECIPE = Path(__file__).parents[2] / "pipelines" / "llama-70b-svc.yaml"
#: 5 GB scaled down in both directions: as many shards as of the real model.
SHARD = "20MB"
WORKERS = ("w1", "w2")
#: What a worker process of Ray holds when it has loaded everything and done a small unit, and some room.
IDLE = 260 << 20
#: Real dimensions over sixteen; heads and layers as they are.
CONFIG = LlamaConfig(
    hidden_size=512, intermediate_size=1792, num_hidden_layers=80, num_attention_heads=64, num_key_value_heads=8,
    vocab_size=8016, max_position_embeddings=512, tie_word_embeddings=False, dtype="bfloat16",
    architectures=["LlamaForCausalLM"],
)  # fmt: skip


def shapes() -> Shapes:
    return llama_shapes(80, 512, 1792, 8016, 64)


def write_models(folder: Path) -> list[Path]:
    """Base and two experts: random weights, and deltas that are half of them shared, which is what SVC scales back."""
    paths = []
    for seed, name in enumerate(("base", "expert0", "expert1")):
        tensors = {}
        for number, (tensor, shape) in enumerate(shapes().items()):
            weight = torch.randn(shape, generator=torch.Generator().manual_seed(number)) * 0.02
            if seed:
                for own in (1, seed + 1):
                    delta = torch.randn(shape, generator=torch.Generator().manual_seed(1000 * own + number))
                    weight += 0.001 * delta
            tensors[tensor] = weight.bfloat16()
        paths.append(write_checkpoint(folder / name, tensors, shards=8, config=CONFIG.to_dict()))
    return paths


def write_recipe(file: Path, locations: list[str]) -> Path:
    """The pipeline's recipe with these models."""
    recipe = yaml.safe_load(RECIPE.read_text())
    models = [entry | {"model": location} for entry, location in zip(recipe["models"][:2], locations[1:], strict=True)]
    file.write_text(yaml.safe_dump(recipe | {"base_model": locations[0], "models": models, "max_shard_size": SHARD}))
    return file


@contextmanager
def peak_anonymous(hosts: list[Host]) -> Iterator[dict[str, int]]:
    """The most anonymous bytes that one worker process of Ray on each host held at any time."""
    peaks = dict.fromkeys((host.name for host in hosts), 0)
    over = threading.Event()

    def sample() -> None:
        while not over.wait(0.1):
            for host in hosts:
                for pid, command in host.processes().items():
                    if command.startswith("ray::"):
                        peaks[host.name] = max(peaks[host.name], anonymous(pid))

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield peaks
    finally:
        over.set()
        thread.join()


def anonymous(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0  # it has ended
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon")), 0)


def test_its_merge_is_the_same_after_the_head_was_killed_in_the_middle(tmp_path: Path) -> None:
    assert len(shapes()) == len(MODELS["llama-3-70b"]()) == 723
    models = write_models(tmp_path)
    local = write_recipe(tmp_path / "local.yaml", [str(model) for model in models])
    plan = svc_dist.make_plan(local)
    began = time.monotonic()
    svc_dist.merge(local, tmp_path / "inline", executor="inline")
    print(f"inline: {time.monotonic() - began:.0f} s, {len(plan.units)} units, {len(plan.shards)} shards")
    with short_home() as folder, HostCluster(folder) as cluster:
        with cluster.s3():
            recipe = write_recipe(folder / "r.yaml", put_models(cluster.bucket, models))
        merge = HostedMerge(cluster, recipe, shard_hashes(tmp_path / "inline"))
        cluster.wait_for(2)
        workers = [cluster.hosts[name] for name in WORKERS]
        with peak_anonymous(workers) as peaks:
            began = time.monotonic()
            with merge.start() as driver:
                merge.wait(driver, done_by(*WORKERS, units=len(plan.units) // 2), timeout=600)
                cluster.hosts["head"].kill()
                code, seconds = driver.wait()
                print(f"head killed after {seconds:.0f} s; its driver ended with {code}")
                assert code != 0
            before = merge.receipts()
            assert len(plan.units) // 2 <= len(before) < len(plan.units)
            cluster.hosts.add("head")
            cluster.start_head()
            cluster.wait_for(2)
            refused = 0
            while True:  # the lock of a driver that could not let go of it expires after a minute
                with merge.start() as driver:
                    while (ended := driver.code) is None:
                        again = {
                            unit for unit, receipt in merge.receipts().items() if before.get(unit, receipt) != receipt
                        }
                        assert not again, "a unit with a receipt ran again"
                        time.sleep(0.2)
                    if ended != ExitCode.LOCKED:
                        break
                    refused += 1
                    assert refused < 60, driver.said()
            merge.require_complete(driver)
        said = driver.done()
        print(f"{refused} starts refused while the dead driver's lock lasted; then {said['seconds']:.0f} s")
        assert said["units_resumed"] >= len(before)
        assert merge.report()["hosts"] == [*WORKERS]
        with cluster.s3():
            merged = download(cluster.bucket, "merged", tmp_path / "merged")
    largest = max(unit.memory for unit in plan.units)
    print(
        f"{time.monotonic() - began:.0f} s in all; a worker's peak anonymous memory: "
        f"{ {name: f'{peak / 2**20:.0f} MiB' for name, peak in peaks.items()} }, its unit's {largest / 2**20:.0f} MiB"
    )
    beside = AHEAD * max(unit.bytes_in + unit.bytes_out for unit in plan.units)  # units that are read or written then
    for name, peak in peaks.items():
        assert 0 < peak < largest + beside + IDLE, name
    require_model(merged)


def require_model(folder: Path) -> None:
    """By safetensors and transformers: every name with its shape, in the shard that the index names, and loadable."""
    weight_map = json.loads((folder / INDEX).read_text())["weight_map"]
    found: Shapes = {}
    for file in sorted({*weight_map.values()}):
        with safe_open(folder / file, "pt") as shard:
            assert sorted(shard.keys()) == sorted(name for name, where in weight_map.items() if where == file)
            found |= {name: tuple(shard.get_slice(name).get_shape()) for name in shard.keys()}  # noqa: SIM118
    assert found == shapes()
    model, loading = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True, dtype=torch.bfloat16)
    assert not any(loading[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert {name: tuple(value.shape) for name, value in model.state_dict().items()} == shapes()
