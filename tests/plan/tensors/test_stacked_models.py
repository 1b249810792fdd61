"""Stacked models load in transformers and compute as their layers one after the other.

What makes them is svc_dist.plan.tensors.layers.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from svc_dist.api import merge
from svc_dist.checks.verify import verify

SIZES: dict[str, Any] = {
    "vocab_size": 48, "hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2, "num_key_value_heads": 1,
    "num_hidden_layers": 4, "head_dim": 8,
}  # fmt: skip
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {}),
    "qwen3": ("Qwen3", {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 2}),
    "gemma2": ("Gemma2", {"sliding_window": 4, "query_pre_attn_scalar": 8}),
}


def made(folder: Path, family: str, seed: int) -> Any:
    """A tiny model, saved in ``folder``."""
    name, keys = FAMILIES[family]
    torch.manual_seed(seed)
    config = getattr(transformers, f"{name}Config")(**SIZES, **keys)
    config._attn_implementation = "eager"
    model = getattr(transformers, f"{name}ForCausalLM")(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.2)
    model.save_pretrained(folder)
    return model


def logits(model: Any) -> Tensor:
    tokens = torch.arange(1, 25).remainder(48).unsqueeze(0)
    with torch.no_grad():
        found: Tensor = model(input_ids=tokens, use_cache=False).logits
    return found


@pytest.mark.parametrize("family", list(FAMILIES))
def test_a_stack_computes_as_its_layers_one_after_the_other(tmp_path: Path, family: str) -> None:
    a, b = made(tmp_path / "a", family, 1), made(tmp_path / "b", family, 2)
    slices = [(a, "a", 0, 3), (b, "b", 1, 4), (a, "a", 3, 4)]
    recipe = {
        "merge_method": "passthrough",
        "slices": [
            {"sources": [{"model": str(tmp_path / name), "layer_range": [first, last]}]}
            for _, name, first, last in slices
        ],
    }
    merge(recipe, tmp_path / "out", executor="inline")
    result = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out", attn_implementation="eager").eval()

    expected = copy.deepcopy(a)
    layers = [layer for model, _, first, last in slices for layer in model.model.layers[first:last]]
    expected.model.layers = torch.nn.ModuleList(layers)
    expected.config.num_hidden_layers = len(layers)
    if getattr(a.config, "layer_types", None):
        expected.config.layer_types = [
            model.config.layer_types[layer] for model, _, first, last in slices for layer in range(first, last)
        ]
        assert result.config.layer_types == expected.config.layer_types
    torch.testing.assert_close(logits(result), logits(expected))
    assert verify(str(tmp_path / "out")).problems == []
