"""Checkpoints and recipes for tests: small real ones, hostile ones, and huge ones that are all hole."""

from __future__ import annotations

import hashlib
import json
import math
import os
import struct
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor

from svc_dist.checkpoint.dtype import byte_count
from svc_dist.checkpoint.header import TensorSpec, header_length, parse_header

INDEX = "model.safetensors.index.json"
Header = Mapping[str, Any]
Shapes = dict[str, tuple[int, ...]]


def shard_name(number: int, shards: int) -> str:
    """``model-00001-of-00002.safetensors`` for number 0 of 2; ``model.safetensors`` when there is one."""
    return "model.safetensors" if shards == 1 else f"model-{number + 1:05d}-of-{shards:05d}.safetensors"


def write_checkpoint(
    folder: Path, tensors: Mapping[str, Tensor], shards: int = 2, config: Mapping[str, Any] | None = None
) -> Path:
    """Save tensors by the safetensors library, dealt out in order over ``shards`` files, with an index if several."""
    folder.mkdir(parents=True, exist_ok=True)
    names = list(tensors)
    shards = max(1, min(shards, len(names)))
    each = -(-len(names) // shards)
    shards = -(-len(names) // each) if names else 1
    weight_map: dict[str, str] = {}
    for number in range(shards):
        file = shard_name(number, shards)
        group = {name: tensors[name].contiguous() for name in names[number * each : (number + 1) * each]}
        save_file(group, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(group, file)
    if shards > 1:
        write_index(folder, weight_map, sum(tensor.nbytes for tensor in tensors.values()))
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    return folder


def write_index(folder: Path, weight_map: Mapping[str, str], total_size: int = 0) -> None:
    """The index of a sharded checkpoint."""
    index = {"metadata": {"total_size": total_size}, "weight_map": dict(weight_map)}
    (folder / INDEX).write_text(json.dumps(index))


def llama_shapes(layers: int, hidden: int, intermediate: int, vocabulary: int, kv: int, head: bool = True) -> Shapes:
    """Shapes of a Llama by their real names."""
    shapes: Shapes = {"model.embed_tokens.weight": (vocabulary, hidden)}
    for layer in range(layers):
        name = f"model.layers.{layer}"
        shapes |= _attention(name, hidden, hidden, kv) | {
            f"{name}.mlp.gate_proj.weight": (intermediate, hidden),
            f"{name}.mlp.up_proj.weight": (intermediate, hidden),
            f"{name}.mlp.down_proj.weight": (hidden, intermediate),
        }
        shapes |= _norms(name, hidden)
    shapes["model.norm.weight"] = (hidden,)
    return shapes | ({"lm_head.weight": (vocabulary, hidden)} if head else {})


def mixtral_shapes(layers: int, hidden: int, intermediate: int, vocabulary: int, kv: int, experts: int) -> Shapes:
    """Shapes of a Mixtral by their real names: a router and experts of three matrices each."""
    shapes: Shapes = {"model.embed_tokens.weight": (vocabulary, hidden)}
    for layer in range(layers):
        name = f"model.layers.{layer}"
        shapes |= _attention(name, hidden, hidden, kv) | {f"{name}.block_sparse_moe.gate.weight": (experts, hidden)}
        for expert in range(experts):
            one = f"{name}.block_sparse_moe.experts.{expert}"
            shapes |= {f"{one}.w1.weight": (intermediate, hidden), f"{one}.w2.weight": (hidden, intermediate)}
            shapes |= {f"{one}.w3.weight": (intermediate, hidden)}
        shapes |= _norms(name, hidden)
    return shapes | {"model.norm.weight": (hidden,), "lm_head.weight": (vocabulary, hidden)}


def qwen_moe_shapes(
    layers: int, hidden: int, q: int, kv: int, intermediate: int, vocabulary: int, experts: int, fused: bool
) -> Shapes:
    """Shapes of a Qwen3-MoE by their real names: experts one by one, as on the hub, or fused, as in memory."""
    shapes: Shapes = {"model.embed_tokens.weight": (vocabulary, hidden)}
    for layer in range(layers):
        name = f"model.layers.{layer}"
        shapes |= _attention(name, hidden, q, kv)
        shapes |= {f"{name}.self_attn.q_norm.weight": (128,), f"{name}.self_attn.k_norm.weight": (128,)}
        shapes |= {f"{name}.mlp.gate.weight": (experts, hidden)}
        if fused:
            shapes |= {f"{name}.mlp.experts.gate_up_proj": (experts, 2 * intermediate, hidden)}
            shapes |= {f"{name}.mlp.experts.down_proj": (experts, hidden, intermediate)}
        else:
            for expert in range(experts):
                one = f"{name}.mlp.experts.{expert}"
                shapes |= {f"{one}.{part}_proj.weight": (intermediate, hidden) for part in ("gate", "up")}
                shapes |= {f"{one}.down_proj.weight": (hidden, intermediate)}
        shapes |= _norms(name, hidden)
    return shapes | {"model.norm.weight": (hidden,), "lm_head.weight": (vocabulary, hidden)}


def llama4_shapes(layers: int, hidden: int, intermediate: int, vocabulary: int, kv: int, experts: int) -> Shapes:
    """Shapes of Llama 4's text model by their real names: fused experts, stored transposed, beside a shared one."""
    shapes: Shapes = {"model.embed_tokens.weight": (vocabulary, hidden)}
    for layer in range(layers):
        name = f"model.layers.{layer}"
        shapes |= _attention(name, hidden, hidden, kv) | {
            f"{name}.feed_forward.experts.gate_up_proj": (experts, hidden, 2 * intermediate),
            f"{name}.feed_forward.experts.down_proj": (experts, intermediate, hidden),
            f"{name}.feed_forward.router.weight": (experts, hidden),
            f"{name}.feed_forward.shared_expert.gate_proj.weight": (intermediate, hidden),
            f"{name}.feed_forward.shared_expert.up_proj.weight": (intermediate, hidden),
            f"{name}.feed_forward.shared_expert.down_proj.weight": (hidden, intermediate),
        }
        shapes |= _norms(name, hidden)
    return shapes | {"model.norm.weight": (hidden,), "lm_head.weight": (vocabulary, hidden)}


def llava_shapes(vocabulary: int = 32064) -> Shapes:
    """Shapes of LLaVA 1.5 7B by the names that the hub's copy for transformers has: CLIP ViT-L, projector, Vicuna."""
    tower = "vision_tower.vision_model"
    shapes: Shapes = {f"{tower}.embeddings.class_embedding": (1024,)}
    shapes |= {f"{tower}.embeddings.patch_embedding.weight": (1024, 3, 14, 14)}
    shapes |= {f"{tower}.embeddings.position_embedding.weight": (577, 1024)}
    for layer in range(24):
        one = f"{tower}.encoder.layers.{layer}"
        for part, shape in (("self_attn.q_proj", (1024, 1024)), ("self_attn.k_proj", (1024, 1024)),
                            ("self_attn.v_proj", (1024, 1024)), ("self_attn.out_proj", (1024, 1024)),
                            ("mlp.fc1", (4096, 1024)), ("mlp.fc2", (1024, 4096))):  # fmt: skip
            shapes |= {f"{one}.{part}.weight": shape, f"{one}.{part}.bias": shape[:1]}
        for part in ("layer_norm1", "layer_norm2"):
            shapes |= {f"{one}.{part}.weight": (1024,), f"{one}.{part}.bias": (1024,)}
    for part in ("pre_layrnorm", "post_layernorm"):
        shapes |= {f"{tower}.{part}.weight": (1024,), f"{tower}.{part}.bias": (1024,)}
    shapes |= {"multi_modal_projector.linear_1.weight": (4096, 1024), "multi_modal_projector.linear_1.bias": (4096,)}
    shapes |= {"multi_modal_projector.linear_2.weight": (4096, 4096), "multi_modal_projector.linear_2.bias": (4096,)}
    vicuna = llama_shapes(32, 4096, 11008, vocabulary, 4096)
    return shapes | {f"language_model.{name}": shape for name, shape in vicuna.items()}


def vicuna_audio_shapes() -> Shapes:
    """Shapes of an audio-language model over Vicuna: its own names, a Whisper encoder, a projector."""
    shapes: Shapes = {"audio_encoder.conv1.weight": (1280, 128, 3), "audio_encoder.conv2.weight": (1280, 1280, 3)}
    for layer in range(32):
        one = f"audio_encoder.layers.{layer}"
        shapes |= {f"{one}.self_attn.{part}_proj.weight": (1280, 1280) for part in ("q", "k", "v", "out")}
        shapes |= {f"{one}.fc1.weight": (5120, 1280), f"{one}.fc2.weight": (1280, 5120)}
        shapes |= {f"{one}.self_attn_layer_norm.weight": (1280,), f"{one}.final_layer_norm.weight": (1280,)}
    shapes |= {"audio_projector.weight": (4096, 1280), "audio_projector.bias": (4096,)}
    return shapes | llama_shapes(32, 4096, 11008, 32000, 4096)


def _attention(layer: str, hidden: int, q: int, kv: int) -> Shapes:
    return {
        f"{layer}.self_attn.q_proj.weight": (q, hidden),
        f"{layer}.self_attn.k_proj.weight": (kv, hidden),
        f"{layer}.self_attn.v_proj.weight": (kv, hidden),
        f"{layer}.self_attn.o_proj.weight": (hidden, q),
    }


def _norms(layer: str, hidden: int) -> Shapes:
    return {f"{layer}.input_layernorm.weight": (hidden,), f"{layer}.post_attention_layernorm.weight": (hidden,)}


#: Real models, by the shapes that their configurations give.
MODELS: dict[str, Callable[[], Shapes]] = {
    "llama-3-8b": lambda: llama_shapes(32, 4096, 14336, 128256, 1024),
    "llama-3-70b": lambda: llama_shapes(80, 8192, 28672, 128256, 1024),
    "llama-3.1-405b": lambda: llama_shapes(126, 16384, 53248, 128256, 1024),
    "vicuna-7b": lambda: llama_shapes(32, 4096, 11008, 32000, 4096),
    "llava-1.5-7b": llava_shapes,
    "audio-vicuna-7b": vicuna_audio_shapes,
    "mixtral-8x7b": lambda: mixtral_shapes(32, 4096, 14336, 32000, 1024, 8),
    "qwen3-30b-a3b": lambda: qwen_moe_shapes(48, 2048, 4096, 512, 768, 151936, 128, fused=False),
    "qwen3-30b-a3b-fused": lambda: qwen_moe_shapes(48, 2048, 4096, 512, 768, 151936, 128, fused=True),
    "llama-4-scout-text": lambda: llama4_shapes(48, 5120, 8192, 202048, 1024, 16),
}


def llama_like(
    seed: int,
    layers: int = 2,
    hidden: int = 16,
    intermediate: int = 24,
    vocabulary: int = 40,
    dtype: torch.dtype = torch.bfloat16,
    head: bool = True,
) -> dict[str, Tensor]:
    """Random weights of a tiny Llama. Models of other seeds differ from it by a small delta, as fine-tunes do."""
    common, own = torch.Generator().manual_seed(0), torch.Generator().manual_seed(seed + 1)
    tensors = {}
    for name, shape in llama_shapes(layers, hidden, intermediate, vocabulary, hidden // 2, head).items():
        weight = torch.randn(shape, generator=common) * 0.1
        tensors[name] = (weight + torch.randn(shape, generator=own) * 0.01).to(dtype)
    return tensors


def llama_config(tied: bool = False, **more: Any) -> dict[str, Any]:
    """A config.json for ``llama_like``."""
    return {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 16, "intermediate_size": 24,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 40,
        "tie_word_embeddings": tied, "torch_dtype": "bfloat16",
    } | more  # fmt: skip


def write_llamas(folder: Path, experts: int = 2, **options: Any) -> list[Path]:
    """``base`` and ``expert0``, ``expert1``, ... under ``folder``, each in two shards. Options as of ``llama_like``."""
    names = ["base", *(f"expert{number}" for number in range(experts))]
    keys = {"layers": "num_hidden_layers", "hidden": "hidden_size", "vocabulary": "vocab_size"}
    keys["intermediate"] = "intermediate_size"
    config = llama_config(**{keys[name]: value for name, value in options.items() if name in keys})
    return [
        write_checkpoint(folder / name, llama_like(seed, **options), config=config) for seed, name in enumerate(names)
    ]


def raw_file(path: Path, header: bytes | Header, data: bytes = b"", length: int | None = None) -> Path:
    """A safetensors file byte by byte: ``header`` (JSON, or its text) and data; ``length`` lies about the header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


def entry(dtype: str, shape: Sequence[int], start: int, end: int | None = None) -> dict[str, Any]:
    """One tensor of a raw header, its end by dtype and shape unless given."""
    if end is None:
        end = start + (byte_count(dtype, tuple(shape)) or 0)
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}


def sparse_checkpoint(
    folder: Path, shapes: Mapping[str, tuple[int, ...]], dtype: str = "BF16", shard_size: int = 5 * 10**9
) -> Path:
    """A checkpoint of any size that takes no room: true headers and an index, and a hole where the data would be.

    Sharded as the hub's models are: in the model's order, a new shard wherever ``shard_size`` bytes would be exceeded.
    """
    folder.mkdir(parents=True, exist_ok=True)
    headers: list[dict[str, Any]] = []
    position = 0
    for name, shape in shapes.items():
        size = byte_count(dtype, shape) or 0
        if not headers or (position and position + size > shard_size):
            headers.append({})
            position = 0
        headers[-1][name] = entry(dtype, shape, position)
        position += size
    weight_map: dict[str, str] = {}
    total = 0
    for number, header in enumerate(headers):
        file = shard_name(number, len(headers))
        path = raw_file(folder / file, header)
        size = max(tensor["data_offsets"][1] for tensor in header.values())
        os.truncate(path, path.stat().st_size + size)
        weight_map |= dict.fromkeys(header, file)
        total += size
    if len(headers) > 1:
        write_index(folder, weight_map, total)
    return folder


def specs_of(path: Path) -> dict[str, TensorSpec]:
    """The tensor specs of one file, by our own reader."""
    data = path.read_bytes()
    end = 8 + header_length(data, path.name, len(data))
    return parse_header(data[8:end], path.name, len(data))


def poke(path: Path, tensor: str, element: int, value: float) -> None:
    """Change one element of a tensor in a file, in place."""
    spec = specs_of(path)[tensor]
    dtype = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32, "F64": torch.float64}[spec.dtype]
    raw = torch.tensor([value], dtype=dtype).view(torch.uint8).numpy().tobytes()
    with path.open("r+b") as file:
        file.seek(spec.start + element * len(raw))
        file.write(raw)


def recipe_data(locations: Sequence[Path | str], method: str = "task_arithmetic", **keys: Any) -> dict[str, Any]:
    """A recipe as plain data: the first location is the base, the others its experts."""
    experts = [{"model": str(location)} for location in locations[1:]]
    return {"base_model": str(locations[0]), "models": experts, "merge_method": method} | keys


def write_recipe(path: Path, locations: Sequence[Path | str], method: str = "task_arithmetic", **keys: Any) -> Path:
    """A recipe file; keys as in the recipe (``rules=[...]``, ``calibrate="svc"``)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(recipe_data(locations, method, **keys), sort_keys=False))
    return path


def tree_state(folder: Path) -> dict[str, tuple[int, str]]:
    """Every file under a folder with its mtime (in nanoseconds) and SHA-256; a folder with its mtime."""
    return {
        str(path.relative_to(folder)): (
            path.lstat().st_mtime_ns,
            hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "",
        )
        for path in sorted([folder, *folder.rglob("*")])
    }


def numel(shape: Sequence[int]) -> int:
    """Elements of a shape."""
    return math.prod(shape)
