"""The modules of a sentence-transformers model are merged with it, and its sub-folders are complete."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import svc_dist
from svc_dist.checkpoint.checkpoint import open_checkpoint
from svc_dist.checks.verify import verify
from svc_dist.errors import DamagedInputError
from tests.support.checkpoints import recipe_data, write_checkpoint

WORDS, DENSE = "embeddings.word_embeddings.weight", "2_Dense/linear.weight"


def sentence_model(folder: Path, seed: int, dense: int | None = None) -> Path:
    draw = torch.Generator().manual_seed(seed)
    tensors = {WORDS: torch.randn(16, 8, generator=draw), "pooler.bias": torch.randn(8, generator=draw)}
    write_checkpoint(folder, tensors, config={"model_type": "bert"}, shards=1)
    modules = [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
        {"idx": 2, "name": "2", "path": "2_Dense", "type": "sentence_transformers.models.Dense"},
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    for name, config in (("1_Pooling", {"word_embedding_dimension": 8}), ("2_Dense", {"in_features": 8})):
        (folder / name).mkdir()
        (folder / name / "config.json").write_text(json.dumps(config))
    weight = torch.randn(4, 8, generator=torch.Generator().manual_seed(dense or seed))
    save_file({"linear.weight": weight}, folder / "2_Dense" / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture
def models(tmp_path: Path) -> list[Path]:
    return [sentence_model(tmp_path / name, seed) for seed, name in enumerate(("base", "a", "b"), 1)]


@pytest.mark.parametrize("size", ["5GB", "600B"])
def test_the_weights_of_a_module_are_merged_in_its_folder(models: list[Path], tmp_path: Path, size: str) -> None:
    out = tmp_path / "out"
    keys = {"merge_method": "task_arithmetic", "max_shard_size": size}
    svc_dist.merge(recipe_data(models, **keys), out, executor="inline")
    base, *experts = (load_file(model / "2_Dense" / "model.safetensors")["linear.weight"] for model in models)
    merged = load_file(out / "2_Dense" / "model.safetensors")
    assert list(merged) == ["linear.weight"]
    weight = recipe_data(models)["models"][0].get("parameters", {}).get("weight", 1.0)
    expected = base + sum(weight * (expert - base) for expert in experts)
    torch.testing.assert_close(merged["linear.weight"], expected)
    assert json.loads((out / "1_Pooling" / "config.json").read_text()) == {"word_embedding_dimension": 8}
    assert json.loads((out / "2_Dense" / "config.json").read_text()) == {"in_features": 8}
    index = json.loads((out / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"]) == {WORDS, "pooler.bias"}
    assert index["metadata"]["total_size"] == 16 * 8 * 4 + 8 * 4
    assert verify(str(out), deep=True).problems == []
    assert set(open_checkpoint(str(out)).tensors) == {WORDS, "pooler.bias", DENSE}
    assert svc_dist.merge(recipe_data(models, **keys), out, executor="inline").executor == "none"
    svc_dist.merge(recipe_data(models, **keys), out, executor="inline", restart=True)


def test_several_results_each_have_the_module(models: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    outputs = [{"path": "half", "lambda": 0.5}, {"path": "whole", "lambda": 1.0}]
    svc_dist.merge(recipe_data(models, merge_method="ties", outputs=outputs), out, executor="inline")
    for name in ("half", "whole"):
        assert verify(str(out / name), deep=True).problems == []
        assert list(load_file(out / name / "2_Dense" / "model.safetensors")) == ["linear.weight"]


def test_a_module_with_a_pickle_is_refused(models: list[Path]) -> None:
    (models[1] / "2_Dense" / "model.safetensors").rename(models[1] / "2_Dense" / "pytorch_model.bin")
    with pytest.raises(DamagedInputError, match=r"2_Dense: a module's weights in pytorch_model.bin") as caught:
        open_checkpoint(str(models[1]))
    assert "save_pretrained" in str(caught.value.hint)


@pytest.mark.parametrize("text", ["{", "[3]", '[{"path": "../other"}]', '[{"path": "/etc"}]'])
def test_wrong_lists_of_modules_are_refused(models: list[Path], text: str) -> None:
    (models[0] / "modules.json").write_text(text)
    with pytest.raises(DamagedInputError, match=r"modules.json"):
        open_checkpoint(str(models[0]))
