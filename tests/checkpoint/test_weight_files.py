"""The names of weight files: what loaders look for is what a merge writes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import svc_dist
from svc_dist.checkpoint.checkpoint import open_checkpoint
from svc_dist.checkpoint.weight_files import is_index, is_last, missing_shards, names_like
from svc_dist.checks.verify import verify
from svc_dist.errors import DamagedInputError
from tests.support.checkpoints import recipe_data, write_checkpoint

TENSORS = {"a.weight": torch.ones(600, 600), "b.weight": torch.ones(600, 600)}


@pytest.mark.parametrize(
    ("files", "config", "file", "shard", "index"),
    [
        (["model.safetensors"], None, "model.safetensors", "model-00002-of-00003.safetensors",
         "model.safetensors.index.json"),
        (["weights.safetensors"], {"architectures": ["X"], "_diffusers_version": "1"}, "model.safetensors",
         "model-00002-of-00003.safetensors", "model.safetensors.index.json"),
        (["diffusion_pytorch_model-00001-of-00007.safetensors"], None, "diffusion_pytorch_model.safetensors",
         "diffusion_pytorch_model-00002-of-00003.safetensors", "diffusion_pytorch_model.safetensors.index.json"),
        (["diffusion_pytorch_model.fp16.safetensors"], None, "diffusion_pytorch_model.fp16.safetensors",
         "diffusion_pytorch_model.fp16-00002-of-00003.safetensors",
         "diffusion_pytorch_model.safetensors.index.fp16.json"),
        (["diffusion_pytorch_model.fp16-00001-of-00002.safetensors"], None, "diffusion_pytorch_model.fp16.safetensors",
         "diffusion_pytorch_model.fp16-00002-of-00003.safetensors",
         "diffusion_pytorch_model.safetensors.index.fp16.json"),
        (["other.safetensors"], {"_class_name": "UNet2DConditionModel", "_diffusers_version": "0.3"},
         "diffusion_pytorch_model.safetensors", "diffusion_pytorch_model-00002-of-00003.safetensors",
         "diffusion_pytorch_model.safetensors.index.json"),
    ],
)  # fmt: skip
def test_names_are_those_of_the_base_s_library(
    files: list[str], config: dict[str, object] | None, file: str, shard: str, index: str
) -> None:
    names = names_like(files, config)
    assert (names.file(1, 1), names.file(2, 3), names.index) == (file, shard, index)
    assert is_index(names.index)


def test_shards_that_are_missing() -> None:
    assert missing_shards(["model.safetensors", "model-00001-of-00001.safetensors"]) is None
    assert missing_shards(["m-00001-of-00002.safetensors", "m-00002-of-00002.safetensors"]) is None
    lone = "m-00002-of-00003.safetensors"
    assert missing_shards([lone]) == (lone, 3, ["m-00001-of-00003.safetensors", "m-00003-of-00003.safetensors"])


def test_the_files_without_which_no_model_looks_whole() -> None:
    whole = ["model.safetensors", "a/m-00003-of-00003.safetensors", "adapter_model.safetensors"]
    assert all(map(is_last, whole))
    assert not any(map(is_last, ["m-00001-of-00003.safetensors", "config.json", "m.safetensors.index.json"]))


@pytest.mark.parametrize(
    "name", ["model-00002-of-00002.safetensors", "diffusion_pytorch_model-00001-of-00002.safetensors"]
)
def test_one_shard_of_two_is_no_model(tmp_path: Path, name: str) -> None:
    save_file(TENSORS, tmp_path / name)
    with pytest.raises(DamagedInputError, match=f"1 of 2 shards \\({name}\\), without an index: .* is missing"):
        open_checkpoint(str(tmp_path))


def component(folder: Path, stem: str, index: str | None) -> Path:
    folder.mkdir()
    if index is None:
        save_file(TENSORS, folder / f"{stem}.safetensors", metadata={"format": "pt"})
    else:
        names = {key: f"{stem}-{n:05d}-of-00002.safetensors" for n, key in enumerate(TENSORS, 1)}
        for key, name in names.items():
            save_file({key: TENSORS[key]}, folder / name, metadata={"format": "pt"})
        (folder / index).write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": names}))
    (folder / "config.json").write_text('{"_class_name": "UNet2DConditionModel", "_diffusers_version": "0.35.1"}')
    return folder


@pytest.mark.parametrize("size", ["5GB", "1MB"])
@pytest.mark.parametrize("variant", ["", ".fp16"])
def test_a_component_of_diffusers_keeps_its_names(tmp_path: Path, variant: str, size: str) -> None:
    stem, index = f"diffusion_pytorch_model{variant}", f"diffusion_pytorch_model.safetensors.index{variant}.json"
    models = [component(tmp_path / "base", stem, index), component(tmp_path / "a", stem, None)]
    out = tmp_path / "out"
    svc_dist.merge(recipe_data(models, max_shard_size=size), out, executor="inline")
    shards = [f"{stem}.safetensors"] if size == "5GB" else [f"{stem}-0000{n}-of-00002.safetensors" for n in (1, 2)]
    assert sorted(path.name for path in out.glob("*.safetensors*")) == sorted([*shards, index])
    assert set(json.loads((out / index).read_text())["weight_map"].values()) == set(shards)
    assert verify(str(out), deep=True).problems == []
    assert svc_dist.merge(recipe_data(models, max_shard_size=size), out, executor="inline").executor == "none"
    svc_dist.merge(recipe_data(models, max_shard_size=size), out, executor="inline", restart=True)


def test_the_plain_files_count_beside_those_of_a_variant(tmp_path: Path) -> None:
    folder = component(
        tmp_path / "m", "diffusion_pytorch_model.fp16", "diffusion_pytorch_model.safetensors.index.fp16.json"
    )
    save_file({"plain": torch.ones(1)}, folder / "diffusion_pytorch_model.safetensors")
    assert set(open_checkpoint(str(folder)).tensors) == {"plain"}


def test_every_missing_shard_of_an_index_is_counted(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path, {name: torch.ones(2) for name in "abcd"}, shards=4)
    for number in (2, 4):
        (folder / f"model-0000{number}-of-00004.safetensors").unlink()
    with pytest.raises(DamagedInputError, match="names 4 files, 2 of them missing: model-00002") as caught:
        open_checkpoint(str(folder))
    assert caught.value.hint is not None
    assert "download the model again" in caught.value.hint
