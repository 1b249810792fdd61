"""The model: a small vision transformer, with tensor names as in large ones."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch
from huggingface_hub import load_torch_model, save_torch_state_dict
from torch import Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention

CONFIG_FILE = "config.json"


@dataclass(frozen=True)
class Config:
    """Sizes of the model; written as ``config.json``."""

    image_size: int = 8
    patch_size: int = 2
    hidden_size: int = 64
    intermediate_size: int = 192
    num_hidden_layers: int = 3
    num_attention_heads: int = 4
    num_labels: int = 10
    model_type: str = "svc_dist_demo"


class Attention(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.heads = config.num_attention_heads
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.k_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.v_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.o_proj = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, states: Tensor) -> Tensor:
        query, key, value = (
            project(states).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        mixed = scaled_dot_product_attention(query, key, value)
        merged: Tensor = self.o_proj(mixed.transpose(1, 2).flatten(2))
        return merged


class MLP(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, states: Tensor) -> Tensor:
        result: Tensor = self.down_proj(gelu(self.up_proj(states)))
        return result


class Layer(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.input_norm = nn.LayerNorm(config.hidden_size)
        self.attention = Attention(config)
        self.post_attention_norm = nn.LayerNorm(config.hidden_size)
        self.mlp = MLP(config)

    def forward(self, states: Tensor) -> Tensor:
        states = states + self.attention(self.input_norm(states))
        states = states + self.mlp(self.post_attention_norm(states))
        return states


class DigitTransformer(nn.Module):
    """Pixels ``(batch, 8, 8)`` to logits ``(batch, 10)``: patches, pre-norm layers, mean over patches, classifier."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.patch_projection = nn.Linear(config.patch_size**2, config.hidden_size)
        self.position_embedding = nn.Embedding((config.image_size // config.patch_size) ** 2, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        self.norm = nn.LayerNorm(config.hidden_size)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)

    def forward(self, images: Tensor) -> Tensor:
        size = self.config.patch_size
        patches = images.unfold(1, size, size).unfold(2, size, size).flatten(3).flatten(1, 2)
        states = self.patch_projection(patches) + self.position_embedding.weight
        for layer in self.layers:
            states = layer(states)
        logits: Tensor = self.classifier(self.norm(states).mean(1))
        return logits


def new_model(config: Config, seed: int) -> DigitTransformer:
    """A model with random weights that depend on ``seed`` alone, and not on torch's global generator."""
    model = _empty_model(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim == 2:
                fan_in = config.hidden_size if "embedding" in name else weight.shape[1]
                weight.normal_(std=fan_in**-0.5, generator=generator)
            else:
                weight.fill_(1.0 if name.endswith("norm.weight") else 0.0)
    return model


def _empty_model(config: Config) -> DigitTransformer:
    with torch.device("meta"):
        model = DigitTransformer(config)
    return model.to_empty(device="cpu")


def save_model(model: DigitTransformer, folder: Path, max_shard_size: str) -> None:
    """Write ``config.json`` and safetensors shards of at most ``max_shard_size`` with their index."""
    folder.mkdir(parents=True)
    (folder / CONFIG_FILE).write_text(json.dumps(asdict(model.config), indent=2) + "\n")
    save_torch_state_dict(model.state_dict(), folder, max_shard_size=max_shard_size)


def load_model(folder: Path) -> DigitTransformer:
    """Read a model that ``save_model`` or a merge wrote, by its index."""
    written = json.loads((folder / CONFIG_FILE).read_text())
    # A merge may add keys of its own, such as the dtype it wrote.
    model = _empty_model(Config(**{field.name: written[field.name] for field in fields(Config)}))
    load_torch_model(model, folder, strict=True)
    return model.eval()
