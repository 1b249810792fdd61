"""Adapters of mixtures of experts, and DoRA, through the whole command: what PEFT makes of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import svc_dist
from tests.support.checkpoints import write_recipe

_SIZES = {"num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2, "vocab_size": 40}


def gpt_oss(hidden: int = 12, intermediate: int = 10) -> Any:
    """Experts ``(E, in, out)``."""
    from transformers import GptOssConfig, GptOssForCausalLM

    sizes = {**_SIZES, "hidden_size": hidden, "intermediate_size": intermediate}
    return GptOssForCausalLM(GptOssConfig(**sizes, head_dim=8, num_local_experts=3, num_experts_per_tok=2))


def mixtral(hidden: int = 12, intermediate: int = 10) -> Any:
    """Experts ``(E, out, in)``, single under other names where transformers saves them as version 4 did."""
    from transformers import MixtralConfig, MixtralForCausalLM

    sizes = {**_SIZES, "hidden_size": hidden, "intermediate_size": intermediate}
    return MixtralForCausalLM(MixtralConfig(**sizes, num_local_experts=3))


def qwen3_moe(hidden: int = 12, intermediate: int = 10) -> Any:
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    sizes = {**_SIZES, "hidden_size": hidden, "moe_intermediate_size": intermediate, "intermediate_size": 20}
    return Qwen3MoeForCausalLM(Qwen3MoeConfig(**sizes, head_dim=6, num_experts=3, num_experts_per_tok=2))


def llama() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(LlamaConfig(**_SIZES, hidden_size=16, intermediate_size=24))


def gpt2() -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes = {"n_embd": 16, "n_layer": 1, "n_head": 2, "vocab_size": 40, "n_positions": 16}
    return GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=0, eos_token_id=0))


def convolution() -> Any:
    from transformers import ResNetConfig, ResNetForImageClassification

    return ResNetForImageClassification(
        ResNetConfig(embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], layer_type="basic", num_labels=2)
    )


EXPERTS = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
CASES: dict[str, tuple[Callable[[], Any], dict[str, Any]]] = {
    "gpt-oss": (gpt_oss, {"target_parameters": EXPERTS}),
    "gpt-oss, square gate and up": (lambda: gpt_oss(16, 8), {"target_parameters": EXPERTS}),
    "gpt-oss, square down": (lambda: gpt_oss(12, 12), {"target_parameters": EXPERTS}),
    "gpt-oss, square down alone": (lambda: gpt_oss(12, 12), {"target_parameters": EXPERTS[1:]}),
    "Mixtral": (mixtral, {"target_parameters": [*EXPERTS, "gate.weight"]}),
    "Mixtral, square down": (lambda: mixtral(12, 12), {"target_parameters": EXPERTS}),
    "Mixtral, square gate and up alone": (lambda: mixtral(16, 8), {"target_parameters": EXPERTS[:1]}),
    "Qwen3-MoE": (qwen3_moe, {"target_parameters": EXPERTS, "use_rslora": True}),
    "Qwen3-MoE, one parameter and patterns": (
        qwen3_moe,
        {"target_parameters": EXPERTS[1:], "alpha_pattern": {"down_proj": 3}, "rank_pattern": {"experts.down_proj": 3}},
    ),
    "DoRA": (llama, {"target_modules": ["q_proj", "v_proj", "down_proj"], "use_dora": True}),
    "DoRA of GPT-2's Conv1D": (gpt2, {"target_modules": ["c_attn"], "use_dora": True, "fan_in_fan_out": True}),
    "DoRA of an embedding": (llama, {"target_modules": ["embed_tokens"], "use_dora": True}),
    "convolutions": (convolution, {"target_modules": ["convolution"]}),
    "DoRA of convolutions": (convolution, {"target_modules": ["convolution"], "use_dora": True}),
}


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("case", CASES)
def test_one_adapter_is_what_peft_merges(case: str, fused: bool, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    make, keys = CASES[case]
    if not fused and make().config.model_type not in ("mixtral", "qwen3_moe"):
        pytest.skip("one layout")
    torch.manual_seed(0)
    model = make()
    model.save_pretrained(tmp_path / "base", save_original_format=not fused)
    keys = {"target_modules": ["q_proj"], **keys} if "target_parameters" in keys else keys
    adapted = get_peft_model(model, LoraConfig(r=2, lora_alpha=3, **keys))
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    adapted.save_pretrained(tmp_path / "adapter")
    adapted.merge_and_unload().save_pretrained(tmp_path / "peft", save_original_format=not fused)
    svc_dist.merge(write_recipe(tmp_path / "r.yaml", [tmp_path / "base", tmp_path / "adapter"]), tmp_path / "out")
    merged, expected, base = (load_file(tmp_path / kind / "model.safetensors") for kind in ("out", "peft", "base"))
    assert merged.keys() == base.keys() == expected.keys()
    assert any(not torch.equal(merged[name], base[name]) for name in merged)
    for name, tensor in merged.items():
        assert torch.allclose(tensor, expected[name], rtol=1e-6, atol=1e-6), name


@pytest.mark.parametrize("method", ["svc", "swudi", "dare_ties", "della"])
@pytest.mark.parametrize("case", ["gpt-oss", "Mixtral", "DoRA of GPT-2's Conv1D", "DoRA of convolutions"])
def test_adapters_under_any_method_are_what_their_whole_models_are(case: str, method: str, tmp_path: Path) -> None:
    """Matrices stored (in, out), batches of matrices, samples and chunks of rows: whatever a method asks for."""
    from peft import LoraConfig, get_peft_model

    make, keys = CASES[case]
    torch.manual_seed(0)
    state = make().state_dict()
    keys = {"target_modules": ["q_proj"], **keys} if "target_parameters" in keys else keys
    for number in range(3):
        model = make()
        model.load_state_dict(state)
        if not number:
            model.double().save_pretrained(tmp_path / "base", save_original_format=False)
            continue
        adapted = get_peft_model(model.double(), LoraConfig(r=2, lora_alpha=3, **keys))
        with torch.no_grad():
            for parameter in adapted.parameters():
                if parameter.requires_grad:
                    parameter.add_(torch.randn_like(parameter) * 0.1)
        adapted.save_pretrained(tmp_path / f"adapter{number}")
        adapted.merge_and_unload().save_pretrained(tmp_path / f"whole{number}", save_original_format=False)
    keep = [{"match": ["*norm*", "*running*", "*num_batches*"], "keep": "base", "optional": True}]
    recipe: dict[str, Any] = {"merge_method": "task_arithmetic", "calibrate": "svc"} if method == "svc" else {}
    recipe = recipe or {"merge_method": method, **({"parameters": {"density": 0.5}} if method[0] == "d" else {})}
    results = []
    for name, kinds in (("a", ["adapter1", "adapter2"]), ("m", ["whole1", "adapter2"]), ("w", ["whole1", "whole2"])):
        models = [tmp_path / kind for kind in ("base", *kinds)]
        path = write_recipe(tmp_path / f"{name}.yaml", models, **recipe, rules=keep)
        svc_dist.merge(path, tmp_path / name, precision="float64")
        results.append(load_file(tmp_path / name / "model.safetensors"))
    for name, tensor in results[2].items():
        for other in results[:2]:
            assert torch.allclose(tensor.double(), other[name].double(), rtol=1e-5, atol=1e-6), name


@pytest.mark.parametrize("case", ["DoRA", "Mixtral"])
def test_an_adapter_to_a_model_of_its_own_and_one_that_is_kept(case: str, tmp_path: Path) -> None:
    """``model+adapter`` is relative to that model, in whichever layout; `keep` writes what the expert is."""
    from peft import LoraConfig, get_peft_model

    make, keys = CASES[case]
    torch.manual_seed(0)
    make().save_pretrained(tmp_path / "base", save_original_format=False)
    model = make()
    model.save_pretrained(tmp_path / "model", save_original_format=True)
    keys = {"target_modules": ["q_proj"], **keys} if "target_parameters" in keys else keys
    adapted = get_peft_model(model, LoraConfig(r=2, init_lora_weights=False, **keys))
    adapted.save_pretrained(tmp_path / "adapter")
    adapted.merge_and_unload().save_pretrained(tmp_path / "peft", save_original_format=False)
    expected = load_file(tmp_path / "peft" / "model.safetensors")
    both = {"model": f"{tmp_path}/model+{tmp_path}/adapter", "name": "both", "parameters": {"weight": 1.0}}
    for number, rules in enumerate(([], [{"match": "*", "keep": "both"}])):
        recipe = {"base_model": str(tmp_path / "base"), "models": [both], "merge_method": "task_arithmetic"}
        svc_dist.merge({**recipe, "rules": rules}, tmp_path / f"out{number}")
        merged = load_file(tmp_path / f"out{number}" / "model.safetensors")
        assert merged.keys() == expected.keys()
        for name, tensor in merged.items():
            assert torch.allclose(tensor, expected[name], rtol=1e-6, atol=1e-6), name
