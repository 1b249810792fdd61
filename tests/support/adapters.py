"""LoRA adapters for tests, file by file: what PEFT would write, and what it would not."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.support.checkpoints import entry, raw_file

PREFIX = "base_model.model."


def lora(modules: Mapping[str, tuple[int, int]], rank: int = 2, seed: int = 0, size: float = 0.1) -> dict[str, Tensor]:
    """Random pairs for modules by the shape of their weights ``(m, n)``; float32."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for module, (rows, columns) in modules.items():
        tensors[f"{PREFIX}{module}.lora_A.weight"] = torch.randn(rank, columns, generator=generator) * size
        tensors[f"{PREFIX}{module}.lora_B.weight"] = torch.randn(rows, rank, generator=generator) * size
    return tensors


def config(rank: int = 2, alpha: float = 4, **more: Any) -> dict[str, Any]:
    """An ``adapter_config.json``."""
    return {"peft_type": "LORA", "r": rank, "lora_alpha": alpha} | more


def write_adapter(folder: Path, tensors: Mapping[str, Tensor], data: Mapping[str, Any] | None = None) -> Path:
    """An adapter's folder; its configuration says rank 2 and alpha 4, a scale of 2, unless given."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(config() if data is None else data))
    return folder


def llama_modules(names: Sequence[str] = ("q_proj", "v_proj", "down_proj"), layers: int = 2) -> dict[str, Any]:
    """Modules of ``llama_like`` by the shapes of their weights."""
    shapes = {"q_proj": (16, 16), "k_proj": (8, 16), "v_proj": (8, 16), "o_proj": (16, 16)}
    shapes |= {"gate_proj": (24, 16), "up_proj": (24, 16), "down_proj": (16, 24)}
    part = {name: "self_attn" if name[0] in "qkvo" else "mlp" for name in shapes}
    part["up_proj"] = "mlp"
    return {f"model.layers.{n}.{part[name]}.{name}": shapes[name] for n in range(layers) for name in names}


def sparse_adapter(folder: Path, modules: Mapping[str, tuple[int, int]], rank: int, alpha: float) -> Path:
    """An adapter of any size that takes no room: a true header, and a hole where the data would be."""
    header, position = {}, 0
    for module, (rows, columns) in modules.items():
        for side, shape in (("A", (rank, columns)), ("B", (rows, rank))):
            header[f"{PREFIX}{module}.lora_{side}.weight"] = entry("BF16", shape, position)
            position += 2 * shape[0] * shape[1]
    path = raw_file(folder / "adapter_model.safetensors", header)
    os.truncate(path, path.stat().st_size + position)
    (folder / "adapter_config.json").write_text(json.dumps(config(rank, alpha)))
    return folder
