"""The values of keys that configs leave out, where architectures disagree about them, as in transformers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_GEMMA_3 = {"sliding_window": 4096, "rope_theta": 1e6, "head_dim": 256, "sliding_attention.rope_theta": 1e4}

#: Types of language models, without the ending of a section of text, and their values.
_FAMILIES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("bitnet cohere csm ernie4_5_moe flex_olmo mllama qwen3_vl qwen3_vl_moe", {"rope_theta": 500_000.0}),
    ("emu3 lfm2 lfm2_moe minimax mixtral phimoe qwen2_vl qwen2_5_vl qwen2_5_omni qwen3_omni_moe", {"rope_theta": 1e6}),
    ("cohere2 exaone4 mistral", {"sliding_window": 4096}),
    ("bamba glm4_moe nemotron persimmon phi recurrent_gemma", {"partial_rotary_factor": 0.5}),
    ("glm glm4", {"attention_bias": True, "partial_rotary_factor": 0.5}),
    ("deepseek_v2 deepseek_v3 kimi_linear", {"head_dim": 64}),
    ("ernie4_5", {"rope_theta": 500_000.0, "head_dim": 128}),
    ("gemma", {"head_dim": 256}),
    ("gemma2", {"sliding_window": 4096, "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0}),
    ("gemma2", {"head_dim": 256}),
    ("gemma3", _GEMMA_3),
    ("gemma3n", {**_GEMMA_3, "sliding_window": 512, "final_logit_softcapping": 30.0}),
    ("gemma4", {**_GEMMA_3, "sliding_window": 512, "partial_rotary_factor": 0.25}),
    ("gpt_neox", {"attention_bias": True, "partial_rotary_factor": 0.25}),
    ("gpt_oss", {"sliding_window": 128, "attention_bias": True, "rope_theta": 150_000.0, "head_dim": 64}),
    ("llama4", {"use_qk_norm": True, "rope_theta": 500_000.0}),
    ("modernbert", {"rope_theta": 160_000.0, "sliding_attention.rope_theta": 1e4}),
    ("olmo3", {"sliding_window": 4096, "rope_theta": 500_000.0, "sliding_attention.rope_theta": 500_000.0}),
    ("qwen3_next", {"partial_rotary_factor": 0.25, "head_dim": 256}),
    ("qwen3_5 stablelm", {"partial_rotary_factor": 0.25}),
    ("seed_oss", {"attention_bias": True, "head_dim": 128}),
    ("smollm3", {"rope_theta": 2e6}),
)


def defaults_of(section: Mapping[str, Any]) -> Mapping[str, Any]:
    """The values that a section's ``model_type`` gives to keys that are left out, and others give other values."""
    kind = str(section.get("model_type")).removesuffix("_model").removesuffix("_text")
    return {key: value for kinds, values in _FAMILIES if kind in kinds.split() for key, value in values.items()}
