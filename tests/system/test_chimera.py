"""A chimera of three DeepSeek models, small in all but names and shards: FP8 in and out, checked by hand.

``pytest -s`` prints times.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor

import svc_dist
from svc_dist.checks.status import read_status
from svc_dist.checks.verify import verify
from svc_dist.errors import ExitCode
from tests.support.command import shard_hashes
from tests.support.deepseek import Size, config, tensors, write_weights
from tests.support.ray_cluster import ray_cluster
from tests.support.s3_files import download, listing, put_models, uploads
from tests.support.s3_servers import Bucket

RECIPE = Path(__file__).parents[2] / "pipelines" / "deepseek-v3-chimera.yaml"
PARENTS = ("v3", "r1", "r1-0528")
SMALL = Size(
    layers=4, dense=1, experts=4, hidden=128, intermediate=96, expert=48, query=64, key_value=32, rope=16, heads=4,
    head=32, vocabulary=96, block=32,
)  # fmt: skip
#: All layers and kinds of names; fewer experts.
DEEP = Size(
    experts=14, hidden=128, intermediate=96, expert=48, query=64, key_value=32, rope=16, heads=4, head=32,
    vocabulary=320, block=32,
)  # fmt: skip
SHARDS = 163
BLOCK = 32


def recipe_of(locations: list[str], **keys: Any) -> dict[str, Any]:
    """The pipeline's recipe with these parents, in as many shards as they have."""
    recipe = yaml.safe_load(RECIPE.read_text())
    models = [entry | {"model": location} for entry, location in zip(recipe["models"], locations[1:], strict=True)]
    return dict(recipe | {"base_model": locations[0], "models": models} | keys)


def stored(folder: Path) -> dict[str, Tensor]:
    return {name: one for file in sorted(folder.glob("*.safetensors")) for name, one in load_file(file).items()}


def by_hand(name: str, parents: list[dict[str, Tensor]], size: Size) -> dict[str, Tensor]:
    """What the result stores of a weight: a parent's bytes, or the mean of two as one of them would store it."""
    scale, (v3, r1, r1_0528) = f"{name}_scale_inv", parents
    kept = {one: v3[one] for one in (name, scale) if one in v3}
    if f".layers.{size.layers}." in name or ".mlp.gate." in name:  # the layer for a second token; routers
        return kept
    if ".mlp.experts." in name:
        return {one: r1[one] for one in kept}
    if scale not in v3:
        mean = (v3[name].float() + r1_0528[name].float()) / 2
        return {name: mean.to(v3[name].dtype)}
    if all(torch.equal(v3[one].view(torch.uint8), r1_0528[one].view(torch.uint8)) for one in kept):
        return kept
    first, other = (decoded(one[name], one[scale]) for one in (v3, r1_0528))
    mean = (first + (other - first) / 2).bfloat16().float()
    rows, columns = mean.shape
    filled = torch.zeros(-(-rows // BLOCK) * BLOCK, -(-columns // BLOCK) * BLOCK)
    filled[:rows, :columns] = mean.abs()
    largest = filled.view(-1, BLOCK, filled.shape[1] // BLOCK, BLOCK).amax((1, 3)).clamp(min=1e-4)
    scales = largest / 448
    codes = (mean * spread(1 / scales, mean.shape)).clamp(-448, 448).to(torch.float8_e4m3fn)
    return {name: codes, scale: scales}


def decoded(codes: Tensor, scales: Tensor) -> Tensor:
    return codes.float() * spread(scales, codes.shape)


def spread(scales: Tensor, shape: torch.Size) -> Tensor:
    return scales.repeat_interleave(BLOCK, 0).repeat_interleave(BLOCK, 1)[: shape[0], : shape[1]]


def require_chimera(folder: Path, parents: list[Path], size: Size) -> None:
    """Every tensor of the base, with its dtype and shape, and with the bytes that are due."""
    result, sources = stored(folder), [stored(parent) for parent in parents]
    said = {name: (one.dtype, one.shape) for name, one in result.items()}
    assert said == {name: (one.dtype, one.shape) for name, one in sources[0].items()}
    assert set(result) == {name for name, _, _ in tensors(size)}
    due: dict[str, Tensor] = {}
    for name in (name for name in result if not name.endswith("_scale_inv")):
        due |= by_hand(name, sources, size)
    assert set(due) == set(result)
    wrong = [name for name, one in due.items() if not torch.equal(*(t.view(torch.uint8) for t in (one, result[name])))]
    assert not wrong
    require_means(result, sources)
    assert yaml.safe_load((folder / "config.json").read_text()) == config(size)


def require_means(result: Mapping[str, Tensor], parents: list[dict[str, Tensor]]) -> None:
    """Codes of attention stand for the mean of what two parents' stand for, within half a step of E4M3."""
    for name in (name for name in result if name.endswith(".self_attn.o_proj.weight")):
        if int(name.split(".")[2]) % 20 == 0:
            scales = [one[f"{name}_scale_inv"] for one in (result, parents[0], parents[2])]
            codes = [one[name] for one in (result, parents[0], parents[2])]
            value, *means = (decoded(*pair).double() for pair in zip(codes, scales, strict=True))
            mean = (means[0] + means[1]) / 2
            step = mean.abs() / 14 + spread(scales[0], mean.shape).double() * 2**-9
            assert bool(((value - mean).abs() <= step).all())


def test_a_chimera_in_small(tmp_path: Path) -> None:
    parents = [write_weights(tmp_path / name, seed, SMALL, shards=7) for seed, name in enumerate(PARENTS)]
    recipe = recipe_of([str(parent) for parent in parents], max_shard_size="60KB")
    svc_dist.merge(recipe, tmp_path / "out", executor="inline")
    require_chimera(tmp_path / "out", parents, SMALL)
    assert not verify(str(tmp_path / "out"), deep=True).problems


@pytest.mark.slow
def test_a_chimera_of_all_names_under_ray_from_s3_to_s3(disk_s3: Bucket, tmp_path: Path) -> None:
    """Killed in the middle, resumed, and with a worker that hangs: what an inline merge of local files writes."""
    parents = [write_weights(tmp_path / name, seed, DEEP) for seed, name in enumerate(PARENTS)]
    files = list(parents[0].glob("*.safetensors"))
    assert len(files) == SHARDS
    size = sum(file.stat().st_size for file in files)
    keys = {"max_shard_size": size // SHARDS}
    began = time.monotonic()
    svc_dist.merge(recipe_of([str(parent) for parent in parents], **keys), tmp_path / "inline", executor="inline")
    print(f"inline: {time.monotonic() - began:.0f} s, {size / 2**20:.0f} MiB a model")
    expected = shard_hashes(tmp_path / "inline")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(recipe_of(put_models(disk_s3, parents), **keys)))
    url = f"{disk_s3.url}/merged"

    def receipts() -> int:
        return len(listing(disk_s3, "merged/.svc_dist/receipts/"))

    began = time.monotonic()
    with ray_cluster(2) as cluster:
        with cluster.merge(recipe, url) as merge:
            merge.until(lambda: receipts() >= SHARDS // 3)
            merge.process.kill()
            assert merge.process.wait() == -signal.SIGKILL
        status = read_status(url)
        print(f"killed after {time.monotonic() - began:.0f} s: {status.text()}")
        assert status.units > status.done >= SHARDS // 3
        while True:  # the lock of a driver that could not let go of it expires
            with cluster.merge(recipe, url, "--unit-deadline", "60") as merge:
                hung: list[int] = []
                while merge.process.poll() is None and not hung:
                    time.sleep(0.02)
                    hung = cluster.unit_processes("node2") if receipts() > status.done + 5 else []
                for pid in hung:
                    os.kill(pid, signal.SIGSTOP)
                code = merge.ends()
                if code != ExitCode.LOCKED:
                    assert code == ExitCode.DONE, merge.said
                    break
            time.sleep(2)
        assert hung
        assert "no answer within" in merge.said
        print(f"complete {time.monotonic() - began:.0f} s after the first start")
    merged = download(disk_s3, "merged", tmp_path / "merged")
    assert shard_hashes(merged) == expected
    require_chimera(merged, parents, DEEP)
    assert read_status(url).state == "complete"
    assert not verify(url, deep=True).problems
    assert uploads(disk_s3) == set()
    assert listing(disk_s3, "merged/.svc_dist") == {}
