"""PEFT's names and patterns."""

from __future__ import annotations

from svc_dist.checkpoint.checkpoint import Checkpoint
from svc_dist.checkpoint.header import TensorSpec
from svc_dist.plan.adapters.peft import PREFIX, PairName, Parts, adapter_config


def base(*names: str, location: str = "/models/base") -> Checkpoint:
    return Checkpoint(location, (), {name: TensorSpec(name, "F32", (2, 2), "f", 0, 16) for name in names}, None)


def test_targets_are_the_shortest_endings_that_no_other_module_has() -> None:
    parts = Parts([PairName("module", name, "weight", 2) for name in ("layers.0.attn.proj", "layers.1.attn.proj")])
    names = [f"layers.{n}.{part}.proj.weight" for n in range(2) for part in ("attn", "mlp")]
    made = adapter_config(parts, base(*names, "layers.0.weight"), [])
    assert made["target_modules"] == ["attn.proj"]


def test_a_module_whose_name_ends_as_a_layer_s_is_named_in_full() -> None:
    parts = Parts([PairName("module", "head.0", "weight", 2)])
    assert adapter_config(parts, base("head.0.weight", "layers.0.a.weight"), [])["target_modules"] == ["head.0"]


def test_parameters_of_one_module_are_nested_in_the_order_of_their_definition() -> None:
    down, up = (PairName("parameter", "mlp.experts", name, 2) for name in ("down_proj", "gate_up_proj"))
    parts = Parts([down, up])
    assert parts.factor(up, "a") == f"{PREFIX}mlp.experts.base_layer.lora_A.weight"
    assert parts.factor(down, "b") == f"{PREFIX}mlp.experts.lora_B.weight"
    assert parts.whole("mlp.experts.bias") == f"{PREFIX}mlp.experts.base_layer.base_layer.bias"
    assert adapter_config(parts, base("mlp.experts.down_proj"), [])["target_parameters"] == [
        "down_proj",
        "gate_up_proj",
    ]


def test_the_hub_s_name_of_the_base() -> None:
    made = adapter_config(Parts(), base("a.weight", location="hf://owner/name@main"), [])
    assert made["base_model_name_or_path"] == "owner/name"
