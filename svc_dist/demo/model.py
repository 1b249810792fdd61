"""The model: a small vision transformer that transformers loads as ``BeitForImageClassification``."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import load_torch_model, save_torch_state_dict
from torch import Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention

CONFIG_FILE = "config.json"
_EPSILON = 1e-12


@dataclass(frozen=True)
class Config:
    """Sizes of the model; written to ``config.json`` as transformers' BEiT has them."""

    image_size: int = 8
    patch_size: int = 2
    hidden_size: int = 64
    intermediate_size: int = 192
    num_hidden_layers: int = 3
    num_attention_heads: int = 4
    num_labels: int = 10

    def data(self) -> dict[str, Any]:
        """The content of ``config.json``."""
        labels = [str(label) for label in range(self.num_labels)]
        sizes = {key: value for key, value in asdict(self).items() if key != "num_labels"}
        return {
            "architectures": ["BeitForImageClassification"], "model_type": "beit", **sizes, "num_channels": 1,
            "hidden_act": "gelu", "layer_norm_eps": _EPSILON, "use_mean_pooling": True,
            "use_absolute_position_embeddings": True, "layer_scale_init_value": 0.0, "drop_path_rate": 0.0,
            "id2label": dict(zip(labels, labels, strict=True)), "label2id": {label: int(label) for label in labels},
        }  # fmt: skip

    @classmethod
    def parse(cls, data: dict[str, Any]) -> Config:
        """From the content of ``config.json``; a merge may have added keys, such as the dtype that it wrote."""
        sizes = {one.name: data[one.name] for one in fields(cls) if one.name != "num_labels"}
        return cls(**sizes, num_labels=len(data["id2label"]))


def _named(**modules: nn.Module) -> nn.ModuleDict:
    """Modules under the names that transformers stores."""
    return nn.ModuleDict(modules)


class Embeddings(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        patches = (config.image_size // config.patch_size) ** 2
        self.cls_token = nn.Parameter(torch.empty(1, 1, config.hidden_size))
        self.position_embeddings = nn.Parameter(torch.empty(1, patches + 1, config.hidden_size))
        size = config.patch_size
        self.patch_embeddings = _named(projection=nn.Conv2d(1, config.hidden_size, size, size))

    def forward(self, images: Tensor) -> Tensor:
        patches = self.patch_embeddings["projection"](images.unsqueeze(1)).flatten(2).transpose(1, 2)
        return torch.cat([self.cls_token.expand(len(images), -1, -1), patches], 1) + self.position_embeddings


class Layer(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        width, inner = config.hidden_size, config.intermediate_size
        self.heads = config.num_attention_heads
        projections = _named(
            query=nn.Linear(width, width), key=nn.Linear(width, width, bias=False), value=nn.Linear(width, width)
        )
        self.attention = _named(attention=projections, output=_named(dense=nn.Linear(width, width)))
        self.intermediate = _named(dense=nn.Linear(width, inner))
        self.output = _named(dense=nn.Linear(inner, width))
        self.layernorm_before = nn.LayerNorm(width, _EPSILON)
        self.layernorm_after = nn.LayerNorm(width, _EPSILON)

    def forward(self, states: Tensor) -> Tensor:
        states = states + self._attended(self.layernorm_before(states))
        inner = gelu(self.intermediate["dense"](self.layernorm_after(states)))
        result: Tensor = states + self.output["dense"](inner)
        return result

    def _attended(self, states: Tensor) -> Tensor:
        query, key, value = (
            self.attention.get_submodule(f"attention.{name}")(states).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for name in ("query", "key", "value")
        )
        mixed = scaled_dot_product_attention(query, key, value)
        merged: Tensor = self.attention.get_submodule("output.dense")(mixed.transpose(1, 2).flatten(2))
        return merged


class DigitTransformer(nn.Module):
    """Pixels ``(batch, 8, 8)`` to logits ``(batch, 10)``: a BEiT, with the names and arithmetic of transformers'."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        self.beit = _named(
            embeddings=Embeddings(config),
            encoder=_named(layer=layers),
            pooler=_named(layernorm=nn.LayerNorm(config.hidden_size, _EPSILON)),
        )
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)

    def forward(self, images: Tensor) -> Tensor:
        states = self.beit["embeddings"](images)
        for layer in self.beit.get_submodule("encoder.layer").children():
            states = layer(states)
        logits: Tensor = self.classifier(self.beit.get_submodule("pooler.layernorm")(states[:, 1:].mean(1)))
        return logits


def new_model(config: Config, seed: int) -> DigitTransformer:
    """A model with random weights that depend on ``seed`` alone, and not on torch's global generator."""
    model = _empty_model(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim > 1:
                table = name.endswith(("cls_token", "position_embeddings"))
                fan_in = config.hidden_size if table else weight[0].numel()
                weight.normal_(std=fan_in**-0.5, generator=generator)
            else:
                weight.fill_(1.0 if "layernorm" in name and name.endswith("weight") else 0.0)
    return model


def _empty_model(config: Config) -> DigitTransformer:
    with torch.device("meta"):
        model = DigitTransformer(config)
    return model.to_empty(device="cpu")


def save_model(model: DigitTransformer, folder: Path, max_shard_size: str) -> None:
    """Write ``config.json`` and safetensors shards of at most ``max_shard_size`` with their index."""
    folder.mkdir(parents=True)
    (folder / CONFIG_FILE).write_text(json.dumps(model.config.data(), indent=2) + "\n")
    save_torch_state_dict(model.state_dict(), folder, max_shard_size=max_shard_size)


def load_model(folder: Path) -> DigitTransformer:
    """Read a model that ``save_model`` or a merge wrote, by its index."""
    written = json.loads((folder / CONFIG_FILE).read_text())
    model = _empty_model(Config.parse(written))
    load_torch_model(model, folder, strict=True)
    return model.eval()
