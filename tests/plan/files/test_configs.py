"""Configs that compute differently: compared by meaning, whatever the spelling, and told before any list of tensors.

The values of keys that a config leaves out are those of ``svc_dist.plan.files.config_defaults``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig

import svc_dist
from svc_dist.errors import PlanError
from svc_dist.plan.files.configs import differences
from tests.support.checkpoints import llama_config, llama_like, recipe_data, write_checkpoint, write_llamas

LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 4096, "num_attention_heads": 32,
    "rope_theta": 10000.0, "rms_norm_eps": 1e-5, "hidden_act": "silu", "num_hidden_layers": 32,
}  # fmt: skip
GEMMA = {"model_type": "gemma3_text", "rope_theta": 1e6, "rope_local_base_freq": 1e4, "sliding_window": 512}
ROPE_OF_5 = {key: value for key, value in LLAMA.items() if key != "rope_theta"}
VISION = {"model_type": "llava", "vision_config": {"hidden_size": 3, "patch_size": 14, "rms_norm_eps": 1.0}}
LINEAR = {"rope_scaling": {"type": "linear", "factor": 4.0}}
UNUSED = {"use_sliding_window": False}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 4096}


def said(base: dict[str, Any], expert: dict[str, Any]) -> list[str]:
    return [str(one) for one in differences(base, expert)]


@pytest.mark.parametrize(
    ("base", "changed", "expected"),
    [
        (LLAMA, {"rope_theta": 1e6}, ["rope_theta 1000000.0 and 10000.0"]),
        (LLAMA, {"rope_parameters": {"rope_theta": 1e6, "rope_type": "default"}}, ["rope_theta 1000000.0 and 10000.0"]),
        (LLAMA, LINEAR, ["rope_scaling.factor 4.0 and not set", "rope_scaling.rope_type 'linear' and 'default'"]),
        (LLAMA | {"rope_scaling": YARN}, {"rope_scaling": YARN | {"factor": 8.0}}, ["rope_scaling.factor 8.0 and 4.0"]),
        (LLAMA, {"partial_rotary_factor": 0.5}, ["partial_rotary_factor 0.5 and not set"]),
        (LLAMA | {"num_key_value_heads": 32}, {"num_attention_heads": 64},
         ["head_dim 64 and 128", "num_attention_heads 64 and 32"]),
        (LLAMA, {"num_key_value_heads": 8}, ["num_key_value_heads 8 and 32"]),
        (LLAMA, {"head_dim": 64}, ["head_dim 64 and 128"]),
        (LLAMA, {"rms_norm_eps": 1e-6}, ["rms_norm_eps 1e-06 and 1e-05"]),
        (LLAMA, {"hidden_act": "gelu"}, ["hidden_act 'gelu' and 'silu'"]),
        (LLAMA, {"sliding_window": 4096}, ["sliding_window 4096 and not set"]),
        (LLAMA, {"architectures": ["LlamaForSequenceClassification"]},
         ["architectures LlamaForSequenceClassification and LlamaForCausalLM"]),
        (LLAMA, {"model_type": "mistral"}, ["model_type 'mistral' and 'llama'", "sliding_window 4096 and not set"]),
        (LLAMA, {"model_type": "mistral", "sliding_window": None}, ["model_type 'mistral' and 'llama'"]),
        (LLAMA | {"num_experts_per_tok": 2}, {"num_experts_per_tok": 4}, ["num_experts_per_tok 4 and 2"]),
        (LLAMA | {"num_local_experts": 8}, {"num_local_experts": 16}, ["num_experts 16 and 8"]),
        (LLAMA, {"final_logit_softcapping": 30.0}, ["final_logit_softcapping 30.0 and not set"]),
        (LLAMA, {"residual_multiplier": 0.2}, ["residual_multiplier 0.2 and not set"]),
        (LLAMA | {"routed_scaling_factor": 1.0}, {"routed_scaling_factor": 2.5}, ["routed_scaling_factor 2.5 and 1.0"]),
        (GEMMA, {"rope_local_base_freq": 2e4}, ["sliding_attention.rope_theta 20000.0 and 10000.0"]),
    ],
)  # fmt: skip
def test_keys_that_compute_differently_are_found_with_both_values(
    base: dict[str, Any], changed: dict[str, Any], expected: list[str]
) -> None:
    if "rope_parameters" in changed:  # as transformers 5 writes it: without rope_theta
        assert said(base, ROPE_OF_5 | changed) == expected
    else:
        assert said(base, base | changed) == expected


@pytest.mark.parametrize(
    ("base", "expert"),
    [
        (LLAMA, LLAMA | {"vocab_size": 9, "torch_dtype": "float32", "use_cache": False, "transformers_version": "5"}),
        (LLAMA, LLAMA | {"bos_token_id": 5, "eos_token_id": [1, 2], "attention_dropout": 0.1, "_name_or_path": "x"}),
        (LLAMA, LLAMA | {"head_dim": 128, "num_key_value_heads": 32, "mlp_bias": False, "attention_bias": False}),
        (LLAMA, ROPE_OF_5),  # 10,000 is what a config without the key means
        (LLAMA, ROPE_OF_5 | {"rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}}),
        (LLAMA | LINEAR, ROPE_OF_5 | {"rope_parameters": {"rope_theta": 1e4, "rope_type": "linear", "factor": 4.0}}),
        (LLAMA, LLAMA | {"rope_scaling": {"type": "mrope", "mrope_section": [1, 2, 3]}}),  # of text alone the same
        (LLAMA | UNUSED | {"sliding_window": 4}, LLAMA | UNUSED | {"sliding_window": 9}),
        (LLAMA, LLAMA | {"layer_types": ["full_attention"] * 32, "sliding_window": None}),
        (LLAMA | {"hidden_act": "swish"}, LLAMA),
        (GEMMA, {"model_type": "gemma3_text", "sliding_window": 512, "rope_parameters": {
            "full_attention": {"rope_theta": 1e6, "rope_type": "default"},
            "sliding_attention": {"rope_theta": 1e4, "rope_type": "default"}}}),
        (LLAMA, VISION | {"text_config": LLAMA}),
        (LLAMA, VISION | {"thinker_config": {"text_config": LLAMA, "hidden_size": 7}}),
        (LLAMA, {}),
    ],
)  # fmt: skip
def test_other_spellings_of_the_same_computation_are_not(base: dict[str, Any], expert: dict[str, Any]) -> None:
    assert said(base, expert) == []
    assert said(expert, base) == []


@pytest.mark.parametrize(
    "kind",
    ["llama", "mistral", "mixtral", "qwen2", "qwen3", "gemma2", "gemma3_text", "gemma3n_text", "phi", "phi3", "cohere",
     "glm", "gpt_neox", "stablelm", "deepseek_v3", "llama4_text", "mllama_text_model", "qwen2_vl_text", "olmo3"],
)  # fmt: skip
def test_a_config_that_leaves_defaults_out_is_the_same_as_one_that_writes_them(kind: str) -> None:
    config = json.loads(AutoConfig.for_model(kind).to_json_string(use_diff=False))
    sparse = {key: config[key] for key in ("model_type", "architectures", "hidden_size") if key in config}
    assert said(sparse, config) == []
    assert said(VISION | {"text_config": sparse}, VISION | {"text_config": config}) == []


def test_sections_are_compared_with_their_own_kind() -> None:
    text = LLAMA | {"rope_theta": 5e5}
    assert said(LLAMA, VISION | {"text_config": text}) == ["rope_theta 500000.0 and 10000.0"]
    assert said(VISION | {"text_config": LLAMA}, VISION | {"llm_config": text}) == ["rope_theta 500000.0 and 10000.0"]
    other = {"vision_config": VISION["vision_config"] | {"patch_size": 16}}
    assert said(VISION | {"text_config": LLAMA}, VISION | {"text_config": LLAMA} | other) == [
        "vision_config.patch_size 16 and 14"
    ]
    assert said(LLAMA, VISION | {"text_config": text | {"model_type": "phi3"}})[0] == "model_type 'phi3' and 'llama'"


@pytest.mark.parametrize("value", [3, "x", None, [], {"a": {"b": 1}}, [{"a": 1}]])
@pytest.mark.parametrize("key", ["rope_parameters", "rope_scaling", "text_config", "layer_types", "hidden_size"])
def test_odd_values_do_no_harm(key: str, value: Any) -> None:
    said(LLAMA, LLAMA | {key: value})
    said(LLAMA | {key: value}, LLAMA)


def test_experts_that_compute_differently_are_one_warning(tmp_path: Path) -> None:
    models = write_llamas(tmp_path, experts=3)
    for model in models[1:3]:
        (model / "config.json").write_text(json.dumps(llama_config(rope_theta=1e6, sliding_window=64)))
    (warning,) = svc_dist.make_plan(recipe_data(models)).warnings
    assert warning.startswith(f"{models[1]}, {models[2]} compute differently than the base {models[0]}: ")
    assert "rope_theta 1000000.0 and not set, sliding_window 64 and not set" in warning
    assert f"The result gets the config.json of {models[0]}: " in warning
    (warning,) = svc_dist.make_plan(recipe_data(models, config_source="expert0")).warnings
    assert f"The result gets the config.json of {models[1]}: " in warning


def test_a_model_of_other_sizes_is_told_before_any_list_of_tensors(tmp_path: Path) -> None:
    base = write_llamas(tmp_path / "a", experts=1)[0]
    expert = write_llamas(tmp_path / "b", experts=0, hidden=32, layers=1)[0]
    with pytest.raises(PlanError) as caught:
        svc_dist.make_plan(recipe_data([base, expert]))
    assert caught.value.message == (
        f"{expert} is no fine-tune of this base: head_dim 8 and 4, hidden_size 32 and 16, num_hidden_layers 1 and 2"
    )
    assert "model.layers" not in str(caught.value)


def test_other_heads_of_the_same_shapes_are_warned_about(tmp_path: Path) -> None:
    base = write_llamas(tmp_path, experts=0)[0]
    config = llama_config(num_attention_heads=2, num_key_value_heads=1)
    expert = write_checkpoint(tmp_path / "one", llama_like(1), config=config)
    (warning,) = svc_dist.make_plan(recipe_data([base, expert])).warnings
    assert "head_dim 8 and 4, num_attention_heads 2 and 4, num_key_value_heads 1 and 2" in warning
