"""Real architectures: what transformers saves we merge, and what we write transformers loads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    ViTConfig,
    ViTForImageClassification,
)

import svc_dist
from svc_dist.checks.verify import verify
from tests.support.command import run, tree_hash, write_recipe

WEIGHTS = (0.3, 0.5, 0.4)


def llama(tied: bool) -> PreTrainedModel:
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=300, hidden_size=64, intermediate_size=160, num_hidden_layers=11, num_attention_heads=4,
            num_key_value_heads=2, tie_word_embeddings=tied, bos_token_id=1, eos_token_id=2,
        )
    )  # fmt: skip


def vit() -> PreTrainedModel:
    config = ViTConfig(hidden_size=48, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4, image_size=32)
    config.patch_size = 8
    return ViTForImageClassification(config)


def bert() -> PreTrainedModel:
    return BertForSequenceClassification(
        BertConfig(vocab_size=200, hidden_size=48, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4)
    )


def expert_of(base: PreTrainedModel, seed: int) -> dict[str, Tensor]:
    """The base with a delta on every weight: low rank and shared between experts, plus its own."""
    generator = torch.Generator().manual_seed(seed)
    shared = torch.Generator().manual_seed(99)
    state = {}
    for name, value in base.state_dict().items():
        if not value.is_floating_point():
            state[name] = value
            continue
        delta = torch.randn(value.shape, generator=generator) + torch.randn(value.shape, generator=shared)
        state[name] = (value.float() + 0.02 * delta).to(value.dtype)
    return state


def save_models(folder: Path, base: PreTrainedModel, shard: str) -> list[Path]:
    torch.manual_seed(5)
    paths = [folder / "base"]
    base.save_pretrained(paths[0], max_shard_size=shard)
    for number in range(len(WEIGHTS)):
        expert = type(base)(base.config).to(base.dtype)
        expert.load_state_dict(expert_of(base, number))
        expert.tie_weights()
        paths.append(folder / f"expert{number}")
        expert.save_pretrained(paths[-1], max_shard_size=shard)
    return paths


def by_hand(paths: list[Path], kind: type[PreTrainedModel]) -> PreTrainedModel:
    """``W0 + sum w_i (Wi - W0)`` in memory, in float32, rounded once."""
    models = [kind.from_pretrained(path) for path in paths]
    states = [model.state_dict() for model in models]
    merged = {}
    for name, base in states[0].items():
        total = base.float()
        if base.is_floating_point():
            total = total + sum(w * (s[name].float() - base.float()) for w, s in zip(WEIGHTS, states[1:], strict=True))
        merged[name] = total.to(base.dtype)
    models[0].load_state_dict(merged)
    return models[0].eval()


def recipe_for(paths: list[Path], **keys: Any) -> dict[str, Any]:
    models = [{"model": str(p), "parameters": {"weight": w}} for p, w in zip(paths[1:], WEIGHTS, strict=True)]
    return {"base_model": str(paths[0]), "models": models, "merge_method": "task_arithmetic", **keys}


def stored(folder: Path) -> dict[str, Tensor]:
    """Every tensor of a checkpoint under the name it is stored by."""
    return {
        name: value for file in sorted(folder.glob("model*.safetensors")) for name, value in load_file(file).items()
    }


def inputs_of(model: PreTrainedModel) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)
    if isinstance(model, ViTForImageClassification):
        return {"pixel_values": torch.randn(2, 3, 32, 32, generator=generator).to(model.dtype)}
    return {"input_ids": torch.randint(3, 200, (2, 17), generator=generator)}


def assert_loads_and_equals(output: Path, kind: Any, expected: PreTrainedModel) -> None:
    loaded, info = kind.from_pretrained(output, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert not info["mismatched_keys"]
    assert loaded.dtype == expected.dtype
    inputs = inputs_of(expected)
    with torch.no_grad():
        found, wanted = loaded.eval()(**inputs).logits.float(), expected(**inputs).logits.float()
    assert torch.allclose(found, wanted, atol=0.02 * float(wanted.abs().max()), rtol=0)


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_a_sharded_bf16_llama_merges_and_loads(tmp_path: Path, tied: bool) -> None:
    torch.manual_seed(1)
    paths = save_models(tmp_path, llama(tied).bfloat16(), "150KB")
    assert len(list(paths[0].glob("model-*.safetensors"))) > 3
    before = tree_hash(tmp_path)
    recipe = write_recipe(tmp_path.parent / f"{tmp_path.name}.yaml", recipe_for(paths, max_shard_size="200KB"))
    output = tmp_path.parent / f"{tmp_path.name}-out"
    run("merge", recipe, output, home=tmp_path.parent)
    assert tree_hash(tmp_path) == before
    assert len(list(output.glob("model-*.safetensors"))) > 3
    assert_loads_and_equals(output, AutoModelForCausalLM, by_hand(paths, LlamaForCausalLM))
    checked = verify(str(output), deep=True)
    assert checked.ok, checked.problems
    assert not checked.skipped
    assert any("every parameter of LlamaForCausalLM" in text for text in checked.checked)


@pytest.mark.parametrize("make", [vit, bert])
def test_a_vision_and_an_encoder_model_merge_and_load(tmp_path: Path, make: Any) -> None:
    torch.manual_seed(1)
    base = make()
    paths = save_models(tmp_path, base, "5GB")
    report = svc_dist.merge(recipe_for(paths), tmp_path / "out")
    assert report.shards == 1
    assert_loads_and_equals(tmp_path / "out", type(base), by_hand(paths, type(base)))
    checked = verify(str(tmp_path / "out"), deep=True)
    assert checked.ok, checked.problems


@pytest.mark.parametrize("make", [lambda: llama(False), vit, bert], ids=["llama", "vit", "bert"])
def test_a_calibrated_model_equals_svc_by_full_decompositions_in_memory(tmp_path: Path, make: Any) -> None:
    torch.manual_seed(1)
    base = make()
    paths = save_models(tmp_path, base, "300KB")
    svc_dist.merge(recipe_for(paths, calibrate="svc"), tmp_path / "out", precision="float64")
    plan = svc_dist.make_plan(recipe_for(paths, calibrate="svc"))
    calibrated = {t.name for t in plan.tensors if plan.dispositions(t)[0].calibration}
    merged = stored(tmp_path / "out")
    states = [stored(path) for path in paths]
    assert len(calibrated) >= 3 * 6
    for name in sorted(calibrated):
        shape = states[0][name].shape
        base_weight, *experts = (state[name].double().reshape(shape[0], -1) for state in states)
        deltas = [expert - base_weight for expert in experts]
        delta = sum((w * d for w, d in zip(WEIGHTS, deltas, strict=True)), torch.zeros_like(base_weight))
        u, s, vh = torch.linalg.svd(delta, full_matrices=False)
        inverse = torch.zeros_like(s)
        for expert_delta in deltas:
            own = u.T @ expert_delta
            share = (s[:, None] * vh * own).sum(1) / own.square().sum(1)
            inverse += share.clamp_min(1 / len(deltas))
        wanted = base_weight + u @ torch.diag(len(deltas) / inverse * s) @ vh
        assert torch.allclose(merged[name].double().reshape(shape[0], -1), wanted, atol=1e-6, rtol=1e-6)


def test_the_recipes_dtype_is_written_and_named_in_the_config(tmp_path: Path) -> None:
    torch.manual_seed(1)
    paths = save_models(tmp_path, llama(False), "5GB")
    svc_dist.merge(recipe_for(paths, dtype="bfloat16"), tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config.get("dtype", config.get("torch_dtype")) == "bfloat16"
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto")
    assert loaded.dtype == torch.bfloat16


def test_companion_files_and_provenance_lie_beside_the_shards(tmp_path: Path) -> None:
    torch.manual_seed(1)
    paths = save_models(tmp_path, llama(False), "5GB")
    (paths[0] / "tokenizer.json").write_text('{"made": "up"}')
    (paths[0] / "chat_template.jinja").write_text("{{ messages }}")
    (paths[0] / "pytorch_model.bin").write_bytes(b"a pickle")
    (paths[0] / "optimizer.pt").write_bytes(b"a pickle")
    svc_dist.merge(recipe_for(paths), tmp_path / "out")
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == [
        "README.md",
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "merge_recipe.yaml",
        "merge_report.json",
        "model.safetensors",
        "model.safetensors.index.json",
        "tokenizer.json",
    ]
    from huggingface_hub import ModelCard

    card = ModelCard.load(tmp_path / "out" / "README.md")
    assert "task_arithmetic" in card.data.tags
    assert card.data.base_model is None  # a hub takes ids of its own models alone
    listed = "\n".join(f"- `{path.name}`" for path in paths[1:])
    assert f"from the base `{paths[0].name}` and\n\n{listed}\n" in card.content
    for file in ("README.md", "merge_recipe.yaml"):
        assert str(tmp_path) not in (tmp_path / "out" / file).read_text(), file
