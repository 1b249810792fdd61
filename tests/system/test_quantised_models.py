"""Models as they ship, in small: made by transformers, stored in FP8 blocks and MXFP4, merged, and loaded again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    DeepseekV3Config,
    DeepseekV3ForCausalLM,
    GptOssConfig,
    GptOssForCausalLM,
    PreTrainedModel,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

import svc_dist
from svc_dist.checkpoint.formats.codecs.fp8_block import Fp8Block
from svc_dist.checks.verify import verify
from tests.support.checkpoints import write_checkpoint
from tests.support.quantised import gpt_oss_experts

SIZE: dict[str, Any] = {
    "hidden_size": 128, "intermediate_size": 256, "num_attention_heads": 4, "vocab_size": 128, "num_experts_per_tok": 2,
}  # fmt: skip


def deepseek() -> PreTrainedModel:
    more = {"qk_rope_head_dim": 32, "qk_nope_head_dim": 32, "v_head_dim": 32, "kv_lora_rank": 128, "q_lora_rank": 128}
    groups = {"n_routed_experts": 4, "n_group": 2, "topk_group": 1, "first_k_dense_replace": 1}
    config = DeepseekV3Config(**SIZE, **more, **groups, num_hidden_layers=2, moe_intermediate_size=128)
    return DeepseekV3ForCausalLM(config)


def qwen3_moe() -> PreTrainedModel:
    more = {"num_hidden_layers": 1, "num_key_value_heads": 4, "head_dim": 32, "moe_intermediate_size": 128}
    return Qwen3MoeForCausalLM(Qwen3MoeConfig(**SIZE, **more, num_experts=4, decoder_sparse_step=1))


def gpt_oss() -> PreTrainedModel:
    more = {"num_hidden_layers": 1, "num_key_value_heads": 4, "head_dim": 32, "num_local_experts": 4}
    return GptOssForCausalLM(GptOssConfig(**SIZE, **more, layer_types=["full_attention"]))


def in_fp8(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Projections as transformers' quantiser for FP8 writes them; those that blocks do not divide stay as they are."""
    stored = dict(tensors)
    for name, weight in tensors.items():
        if name.endswith(("_proj.weight", "_mqa.weight")) and not any(side % 128 for side in weight.shape):
            del stored[name]
            parts = Fp8Block((weight.shape[0], weight.shape[1]), "transformers").encode(weight)
            stored |= {name.removesuffix(".weight") + suffix: part for suffix, part in parts.items()}
    return stored


def in_mxfp4(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Fused experts as gpt-oss stores them."""
    stored = dict(tensors)
    for name in tensors:
        if name.endswith("experts.down_proj") or name.endswith("experts.gate_up_proj"):
            stored |= gpt_oss_experts(name, stored.pop(name))[0]
    return stored


FP8 = {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": [128, 128]}
MXFP4 = {"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn", "lm_head"]}
MODELS: dict[str, tuple[Callable[[], PreTrainedModel], Callable[[dict[str, Tensor]], dict[str, Tensor]], Any]] = {
    "DeepSeek-V3": (deepseek, in_fp8, FP8),
    "Qwen3-MoE": (qwen3_moe, in_fp8, FP8),
    "gpt-oss": (gpt_oss, in_mxfp4, MXFP4),
}


def write_models(folder: Path, model: str) -> list[Path]:
    """A base and two experts, quantised, codes and scales in different files."""
    make, quantise, declared = MODELS[model]
    torch.manual_seed(0)
    start = make().to(torch.bfloat16).state_dict()
    paths = []
    for number in range(3):
        one = make().to(torch.bfloat16)
        random = torch.Generator().manual_seed(number)
        size = 0.01 if number else 0.0
        one.load_state_dict(
            {n: t + (size * torch.randn(t.shape, generator=random)).to(t.dtype) for n, t in start.items()}
        )
        one.save_pretrained(folder / f"plain{number}")
        config = json.loads((folder / f"plain{number}" / "config.json").read_text())
        stored = quantise(load_file(folder / f"plain{number}" / "model.safetensors"))
        apart = {name: stored[name] for name in sorted(stored, key=lambda name: name[::-1])}
        config["quantization_config"] = declared
        paths.append(write_checkpoint(folder / f"m{number}", apart, shards=3, config=config))
    return paths


def loaded(folder: Path) -> PreTrainedModel:
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    return model


@pytest.mark.parametrize("model", MODELS)
def test_what_transformers_loads_is_the_merge_of_what_it_loads(model: str, tmp_path: Path) -> None:
    """It dequantises the inputs itself: their merge by hand is the merged model, but for the rounding of its format."""
    paths = write_models(tmp_path, model)
    experts = [{"model": str(path), "parameters": {"weight": 0.5}} for path in paths[1:]]
    recipe = {"base_model": str(paths[0]), "models": experts, "merge_method": "task_arithmetic"}
    base, *others = (loaded(path).state_dict() for path in paths)
    right = {n: w.double() + sum(0.5 * (one[n].double() - w.double()) for one in others) for n, w in base.items()}
    for output, rounding in (("none", 2**-8), ("base", 2**-8 if model == "gpt-oss" else 0.03)):
        svc_dist.merge({**recipe, "quantization": output}, tmp_path / output, executor="inline")
        assert not verify(str(tmp_path / output), deep=True).problems
        merged = loaded(tmp_path / output)
        assert set(merged.state_dict()) == set(base)
        for name, value in merged.state_dict().items():
            wanted = right[name]
            if output == "base" and name.endswith(("experts.gate_up_proj", "experts.down_proj")) and model == "gpt-oss":
                wanted = gpt_oss_experts(name, wanted.bfloat16())[1].double()  # in four bits the rounding itself
            assert float((value.double() - wanted).norm()) <= rounding * float(wanted.norm()), name
        assert merged(torch.arange(16)[None]).logits.isfinite().all()
    stored = {name: one for file in (tmp_path / "base").glob("*.safetensors") for name, one in load_file(file).items()}
    first = {name: one for file in paths[0].glob("*.safetensors") for name, one in load_file(file).items()}
    assert {n: (t.dtype, t.shape) for n, t in stored.items()} == {n: (t.dtype, t.shape) for n, t in first.items()}
