"""Kimi-K2.5 as it ships: the names, dtypes and shapes of all tensors, and their files. Header-only, at any size.

Its routed experts are packed integers of compressed-tensors. The names of the vision tower are those of Kimi-VL.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.deepseek import Entry, write_entries

_BITS, _WORD, _GROUP = 4, 32, 32


@dataclass(frozen=True)
class Size:
    """The numbers of a model of this kind; those of Kimi-K2.5 by default."""

    layers: int = 61
    dense: int = 1
    experts: int = 384
    hidden: int = 7168
    intermediate: int = 18432
    expert: int = 2048
    query: int = 1536
    key_value: int = 512
    rope: int = 64
    heads: int = 64
    head: int = 128
    vocabulary: int = 163840
    blocks: int = 27
    vision: int = 1152
    vision_intermediate: int = 4304


def tensors(size: Size = Size()) -> Iterator[Entry]:
    """Every tensor in the order of its layers."""
    yield "language_model.model.embed_tokens.weight", "BF16", (size.vocabulary, size.hidden)
    for number in range(size.layers):
        yield from _layer(f"language_model.model.layers.{number}.", number < size.dense, size)
    yield "language_model.model.norm.weight", "BF16", (size.hidden,)
    yield "language_model.lm_head.weight", "BF16", (size.vocabulary, size.hidden)
    yield from _vision(size)


def _layer(layer: str, dense: bool, size: Size) -> Iterator[Entry]:
    for norm in ("input_layernorm", "post_attention_layernorm"):
        yield f"{layer}{norm}.weight", "BF16", (size.hidden,)
    for name, *shape in (
        ("q_a_proj", size.query, size.hidden),
        ("q_a_layernorm", size.query),
        ("q_b_proj", size.heads * (size.head + size.rope), size.query),
        ("kv_a_proj_with_mqa", size.key_value + size.rope, size.hidden),
        ("kv_a_layernorm", size.key_value),
        ("kv_b_proj", size.heads * 2 * size.head, size.key_value),
        ("o_proj", size.hidden, size.heads * size.head),
    ):
        yield f"{layer}self_attn.{name}.weight", "BF16", tuple(shape)
    mlp = f"{layer}mlp."
    if dense:
        yield from _plain(mlp, size.intermediate, size)
        return
    yield f"{mlp}gate.weight", "BF16", (size.experts, size.hidden)
    yield f"{mlp}gate.e_score_correction_bias", "F32", (size.experts,)
    yield from _plain(f"{mlp}shared_experts.", size.expert, size)
    for number in range(size.experts):
        for name, rows, columns in _projections(size.expert, size):
            module = f"{mlp}experts.{number}.{name}"
            yield f"{module}.weight_packed", "I32", (rows, columns * _BITS // _WORD)
            yield f"{module}.weight_scale", "BF16", (rows, columns // _GROUP)
            yield f"{module}.weight_shape", "I32", (2,)


def _projections(width: int, size: Size) -> tuple[tuple[str, int, int], ...]:
    return ("gate_proj", width, size.hidden), ("up_proj", width, size.hidden), ("down_proj", size.hidden, width)


def _plain(prefix: str, width: int, size: Size) -> Iterator[Entry]:
    for name, rows, columns in _projections(width, size):
        yield f"{prefix}{name}.weight", "BF16", (rows, columns)


def _vision(size: Size) -> Iterator[Entry]:
    """The vision tower and the projector behind it, each weight with a bias."""
    width, inner = size.vision, size.vision_intermediate
    for number in range(size.blocks):
        for name, *shape in (
            ("norm0", width), ("norm1", width), ("wqkv", 3 * width, width), ("wo", width, width),
            ("mlp.fc0", inner, width), ("mlp.fc1", width, inner),
        ):  # fmt: skip
            yield from _with_bias(f"vision_tower.encoder.blocks.{number}.{name}", tuple(shape))
    yield from _with_bias("vision_tower.patch_embed.proj", (width, 3, 14, 14))
    yield "vision_tower.patch_embed.pos_emb.weight", "BF16", (64, 64, width)
    yield from _with_bias("vision_tower.encoder.final_layernorm", (width,))
    yield from _with_bias("mm_projector.pre_norm", (width,))
    yield from _with_bias("mm_projector.linear_1", (4 * width, 4 * width))
    yield from _with_bias("mm_projector.linear_2", (size.hidden, 4 * width))


def _with_bias(module: str, shape: tuple[int, ...]) -> Iterator[Entry]:
    yield f"{module}.weight", "BF16", shape
    yield f"{module}.bias", "BF16", shape[:1]


def config(size: Size = Size()) -> dict[str, Any]:
    """What ``config.json`` says."""
    weights = {
        "num_bits": _BITS, "type": "int", "symmetric": True, "strategy": "group", "group_size": _GROUP,
        "dynamic": False, "observer": "minmax", "actorder": None,
    }  # fmt: skip
    declared = {
        "quant_method": "compressed-tensors", "format": "pack-quantized", "quantization_status": "compressed",
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}},
        "ignore": [
            "lm_head", "re:.*self_attn.*", "re:.*shared_experts.*", r"re:.*mlp\.(gate|up|gate_up|down)_proj.*",
        ],
    }  # fmt: skip
    text = {
        "architectures": ["DeepseekV3ForCausalLM"], "model_type": "kimi_k2", "hidden_size": size.hidden,
        "num_hidden_layers": size.layers, "vocab_size": size.vocabulary, "n_routed_experts": size.experts,
        "moe_intermediate_size": size.expert, "intermediate_size": size.intermediate,
        "first_k_dense_replace": size.dense, "tie_word_embeddings": False, "quantization_config": declared,
    }  # fmt: skip
    return {
        "architectures": ["KimiK25ForConditionalGeneration"], "model_type": "kimi_k25", "dtype": "bfloat16",
        "text_config": text, "tie_word_embeddings": False, "quantization_config": declared,
    }  # fmt: skip


def write_headers(folder: Path, size: Size = Size(), shards: int = 64) -> Path:
    """A model of holes: headers, index and config. Files end where they end, so that some weights straddle two."""
    return write_entries(folder, list(tensors(size)), config(size), shards)
