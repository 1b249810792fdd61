"""DeepSeek-V3 as it ships: the names, dtypes and shapes of all tensors, and their files. Header-only, at any size."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from svc_dist.checkpoint.dtype import ITEM_SIZE
from tests.support.checkpoints import write_index
from tests.support.stored_weights import StoredWeights

Entry = tuple[str, str, tuple[int, ...]]  # name, dtype, shape


@dataclass(frozen=True)
class Size:
    """The numbers of a model of this kind; those of DeepSeek-V3 by default. ``extra``: the layer that predicts a second
    token."""

    layers: int = 61
    dense: int = 3
    experts: int = 256
    hidden: int = 7168
    intermediate: int = 18432
    expert: int = 2048
    query: int = 1536
    key_value: int = 512
    rope: int = 64
    heads: int = 128
    head: int = 128
    vocabulary: int = 129280
    block: int = 128
    extra: bool = True


def tensors(size: Size = Size()) -> Iterator[Entry]:
    """Every tensor in the order of its layers."""
    yield "model.embed_tokens.weight", "BF16", (size.vocabulary, size.hidden)
    for number in range(size.layers + size.extra):
        yield from _layer(f"model.layers.{number}.", number < size.dense, size)
        if number == size.layers:
            yield from _second_token(f"model.layers.{number}.", size)
    yield "model.norm.weight", "BF16", (size.hidden,)
    yield "lm_head.weight", "BF16", (size.vocabulary, size.hidden)


def _layer(layer: str, dense: bool, size: Size) -> Iterator[Entry]:
    for norm in ("input_layernorm", "post_attention_layernorm"):
        yield f"{layer}{norm}.weight", "BF16", (size.hidden,)
    attention = f"{layer}self_attn."
    for name, rows, columns in (
        ("q_a_proj", size.query, size.hidden),
        ("q_b_proj", size.heads * (size.head + size.rope), size.query),
        ("kv_a_proj_with_mqa", size.key_value + size.rope, size.hidden),
        ("kv_b_proj", size.heads * 2 * size.head, size.key_value),
        ("o_proj", size.hidden, size.heads * size.head),
    ):
        yield from _fp8(f"{attention}{name}", rows, columns, size.block)
    yield f"{attention}q_a_layernorm.weight", "BF16", (size.query,)
    yield f"{attention}kv_a_layernorm.weight", "BF16", (size.key_value,)
    if dense:
        yield from _mlp(f"{layer}mlp.", size.intermediate, size)
        return
    yield f"{layer}mlp.gate.weight", "BF16", (size.experts, size.hidden)
    yield f"{layer}mlp.gate.e_score_correction_bias", "F32", (size.experts,)
    for expert in (*(f"experts.{number}" for number in range(size.experts)), "shared_experts"):
        yield from _mlp(f"{layer}mlp.{expert}.", size.expert, size)


def _mlp(prefix: str, width: int, size: Size) -> Iterator[Entry]:
    yield from _fp8(f"{prefix}gate_proj", width, size.hidden, size.block)
    yield from _fp8(f"{prefix}up_proj", width, size.hidden, size.block)
    yield from _fp8(f"{prefix}down_proj", size.hidden, width, size.block)


def _second_token(layer: str, size: Size) -> Iterator[Entry]:
    for norm in ("enorm", "hnorm", "shared_head.norm"):
        yield f"{layer}{norm}.weight", "BF16", (size.hidden,)
    yield f"{layer}eh_proj.weight", "BF16", (size.hidden, 2 * size.hidden)
    for name in ("embed_tokens", "shared_head.head"):
        yield f"{layer}{name}.weight", "BF16", (size.vocabulary, size.hidden)


def _fp8(name: str, rows: int, columns: int, block: int) -> Iterator[Entry]:
    yield f"{name}.weight", "F8_E4M3", (rows, columns)
    yield f"{name}.weight_scale_inv", "F32", (-(-rows // block), -(-columns // block))


def config(size: Size = Size()) -> dict[str, Any]:
    """What ``config.json`` says."""
    return {
        "architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v3", "torch_dtype": "bfloat16",
        "hidden_size": size.hidden, "num_hidden_layers": size.layers, "vocab_size": size.vocabulary,
        "num_attention_heads": size.heads, "num_key_value_heads": size.heads, "v_head_dim": size.head,
        "qk_nope_head_dim": size.head, "qk_rope_head_dim": size.rope, "q_lora_rank": size.query,
        "kv_lora_rank": size.key_value,
        "n_routed_experts": size.experts, "moe_intermediate_size": size.expert, "intermediate_size": size.intermediate,
        "first_k_dense_replace": size.dense, "num_nextn_predict_layers": int(size.extra), "tie_word_embeddings": False,
        "quantization_config": {
            "activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8",
            "weight_block_size": [size.block, size.block],
        },
    }  # fmt: skip


def write_headers(folder: Path, size: Size = Size(), shards: int = 163) -> Path:
    """A model of holes: headers, index and config; the first weight of each shard but one has its scale in the next."""
    return write_entries(folder, list(tensors(size)), config(size), shards)


def write_weights(folder: Path, seed: int, size: Size, shards: int = 163) -> Path:
    """The same with random weights."""
    return write_entries(folder, list(tensors(size)), config(size), shards, StoredWeights(seed))


def write_entries(
    folder: Path, entries: list[Entry], said: dict[str, Any], shards: int, weights: StoredWeights | None = None
) -> Path:
    """A model with these tensors, in files of as many of them, and this config; without ``weights`` one of holes."""
    folder.mkdir(parents=True, exist_ok=True)
    each = -(-len(entries) // shards) | 1  # odd, so that pairs straddle borders
    count = -(-len(entries) // each)
    weight_map: dict[str, str] = {}
    for number in range(count):
        group = entries[number * each : (number + 1) * each]
        file = f"model-{number + 1:05d}-of-{count:06d}.safetensors"
        header, end = {}, 0
        for name, dtype, shape in group:
            start, end = end, end + nbytes(dtype, shape)
            header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}
            weight_map[name] = file
        text = json.dumps(header).encode()
        with (folder / file).open("wb") as out:
            out.write(len(text).to_bytes(8, "little") + text)
            if weights is not None:
                out.writelines(weights.of(*entry) for entry in group)
            out.truncate(8 + len(text) + end)
    write_index(folder, weight_map)
    (folder / "config.json").write_text(json.dumps(said))
    return folder


def nbytes(dtype: str, shape: tuple[int, ...]) -> int:
    """The bytes of a tensor."""
    return math.prod(shape) * ITEM_SIZE[dtype]
