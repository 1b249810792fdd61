"""gpt-oss as it ships: the names, dtypes and shapes of all tensors. Header-only, at any size."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.deepseek import Entry, write_entries
from tests.support.stored_weights import StoredWeights


@dataclass(frozen=True)
class Size:
    """The numbers of a model of this kind; those of gpt-oss-20b by default."""

    layers: int = 24
    experts: int = 32
    hidden: int = 2880
    heads: int = 64
    key_value: int = 8
    head: int = 64
    vocabulary: int = 201088


def tensors(size: Size = Size()) -> Iterator[Entry]:
    """Every tensor in the order of its layers."""
    yield "model.embed_tokens.weight", "BF16", (size.vocabulary, size.hidden)
    for number in range(size.layers):
        layer, queries, keys = f"model.layers.{number}.", size.heads * size.head, size.key_value * size.head
        for norm in ("input_layernorm", "post_attention_layernorm"):
            yield f"{layer}{norm}.weight", "BF16", (size.hidden,)
        for name, rows, columns in (
            ("q_proj", queries, size.hidden),
            ("k_proj", keys, size.hidden),
            ("v_proj", keys, size.hidden),
            ("o_proj", size.hidden, queries),
        ):
            yield f"{layer}self_attn.{name}.weight", "BF16", (rows, columns)
            yield f"{layer}self_attn.{name}.bias", "BF16", (rows,)
        yield f"{layer}self_attn.sinks", "BF16", (size.heads,)
        yield f"{layer}mlp.router.weight", "BF16", (size.experts, size.hidden)
        yield f"{layer}mlp.router.bias", "BF16", (size.experts,)
        for name, rows in (("gate_up_proj", 2 * size.hidden), ("down_proj", size.hidden)):
            prefix, groups = f"{layer}mlp.experts.{name}", size.hidden // 32
            yield f"{prefix}_blocks", "U8", (size.experts, rows, groups, 16)
            yield f"{prefix}_scales", "U8", (size.experts, rows, groups)
            yield f"{prefix}_bias", "BF16", (size.experts, rows)
    yield "model.norm.weight", "BF16", (size.hidden,)
    yield "lm_head.weight", "BF16", (size.vocabulary, size.hidden)


def write_headers(folder: Path, size: Size = Size(), shards: int = 3) -> Path:
    """A model of holes: headers, index and config."""
    return write_entries(folder, list(tensors(size)), config(size), shards)


def write_weights(folder: Path, seed: int, size: Size, shards: int = 3) -> Path:
    """The same with random weights."""
    return write_entries(folder, list(tensors(size)), config(size), shards, StoredWeights(seed))


def config(size: Size) -> dict[str, Any]:
    """What ``config.json`` says."""
    return {
        "architectures": ["GptOssForCausalLM"], "model_type": "gpt_oss", "hidden_size": size.hidden,
        "num_hidden_layers": size.layers, "num_local_experts": size.experts, "vocab_size": size.vocabulary,
        "tie_word_embeddings": False,
        "quantization_config": {
            "quant_method": "mxfp4",
            "modules_to_not_convert": ["model.layers.*.self_attn", "model.layers.*.mlp.router", "lm_head"],
        },
    }  # fmt: skip
