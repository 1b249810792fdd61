"""Stacked layers: which layer of which model each tensor of the result is read from, and what is written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor

from svc_dist.api import merge
from svc_dist.checkpoint.checkpoint import open_checkpoint
from svc_dist.checks.verify import verify
from svc_dist.errors import RecipeError
from svc_dist.plan.make import make_plan
from svc_dist.plan.model import Plan
from svc_dist.plan.settings import Settings
from svc_dist.recipe.load import load_recipe
from tests.support.adapters import lora, write_adapter
from tests.support.checkpoints import write_checkpoint

HIDDEN, ROWS, NAMES = 8, 16, ("a", "b", "base")
CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": HIDDEN, "intermediate_size": 16,
    "num_attention_heads": 2, "num_key_value_heads": 2, "vocab_size": ROWS, "tie_word_embeddings": False,
}  # fmt: skip
PARTS = {
    "self_attn.q_proj.weight": (HIDDEN, HIDDEN), "self_attn.k_proj.weight": (HIDDEN, HIDDEN),
    "self_attn.v_proj.weight": (HIDDEN, HIDDEN), "self_attn.o_proj.weight": (HIDDEN, HIDDEN),
    "mlp.gate_proj.weight": (16, HIDDEN), "mlp.up_proj.weight": (16, HIDDEN), "mlp.down_proj.weight": (HIDDEN, 16),
    "input_layernorm.weight": (HIDDEN,), "post_attention_layernorm.weight": (HIDDEN,),
}  # fmt: skip


def tensors(seed: int, layers: int) -> dict[str, Tensor]:
    made = torch.Generator().manual_seed(seed)
    shapes = {"model.embed_tokens.weight": (ROWS, HIDDEN), "model.norm.weight": (HIDDEN,), "lm_head.weight": (ROWS, 8)}
    shapes |= {f"model.layers.{n}.{part}": shape for n in range(layers) for part, shape in PARTS.items()}
    return {name: torch.randn(shape, generator=made) for name, shape in shapes.items()}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``a`` has 4 layers, ``b`` has 6 and ``base`` 4."""
    folder = tmp_path_factory.mktemp("models")
    for seed, (name, layers) in enumerate({"a": 4, "b": 6, "base": 4}.items()):
        write_checkpoint(folder / name, tensors(seed, layers), config={**CONFIG, "num_hidden_layers": layers})
    return folder


def load(folder: Path) -> dict[str, Tensor]:
    return {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}


def write(folder: Path, models: Path, text: str, **keys: Any) -> Path:
    data = yaml.safe_load(text) | keys

    def placed(value: Any) -> Any:
        if isinstance(value, dict):
            return {
                key: str(models / one) if key in ("model", "base_model") and one in NAMES else placed(one)
                for key, one in value.items()
            }
        return [placed(one) for one in value] if isinstance(value, list) else value

    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(placed(data), sort_keys=False))
    return path


def plan(recipe: Path) -> Plan:
    return make_plan(load_recipe(recipe), Settings())


def reads(made: Plan) -> dict[str, list[str]]:
    """The model and the stored name of each source of each tensor."""
    stored: dict[tuple[str, str, int], str] = {}
    for location in {model.location for model in made.models}:
        for spec in open_checkpoint(location).tensors.values():
            stored[location, spec.file, spec.start] = f"{Path(location).name} {spec.name.removeprefix('model.')}"
    return {
        tensor.name.removeprefix("model."): [
            stored[made.inputs[one.input].location, one.file, one.start] for one in tensor.sources if one is not None
        ]
        for tensor in made.tensors
    }


STACKED = """\
merge_method: passthrough
slices:
  - sources: [{model: a, layer_range: [0, 3]}]
  - sources: [{model: b, layer_range: [4, 6]}]
  - sources: [{model: a, layer_range: [1, 4]}]
"""


def test_each_tensor_is_read_from_its_layer(models: Path, tmp_path: Path) -> None:
    found = reads(plan(write(tmp_path, models, STACKED)))
    origins = [("a", 0), ("a", 1), ("a", 2), ("b", 4), ("b", 5), ("a", 1), ("a", 2), ("a", 3)]
    expected = {
        f"layers.{n}.{part}": [f"{model} layers.{layer}.{part}"]
        for n, (model, layer) in enumerate(origins)
        for part in PARTS
    }
    expected |= {name: [f"a {name}"] for name in ("embed_tokens.weight", "norm.weight", "lm_head.weight")}
    assert found == expected


def test_the_first_slice_has_the_embedding_and_the_last_the_norm_and_the_head(models: Path, tmp_path: Path) -> None:
    text = STACKED.rpartition("  - sources")[0]
    found = reads(plan(write(tmp_path, models, text)))
    assert found["embed_tokens.weight"] == ["a embed_tokens.weight"]
    assert (found["norm.weight"], found["lm_head.weight"]) == (["b norm.weight"], ["b lm_head.weight"])


def test_a_stack_holds_the_bytes_of_its_layers_and_verifies(models: Path, tmp_path: Path) -> None:
    recipe = write(tmp_path, models, STACKED)
    merge(recipe, tmp_path / "out", executor="inline")
    result, a, b = load(tmp_path / "out"), load(models / "a"), load(models / "b")
    assert torch.equal(result["model.layers.4.mlp.up_proj.weight"], b["model.layers.5.mlp.up_proj.weight"])
    assert torch.equal(result["model.layers.7.input_layernorm.weight"], a["model.layers.3.input_layernorm.weight"])
    assert torch.equal(result["model.embed_tokens.weight"], a["model.embed_tokens.weight"])
    assert len(result) == 8 * len(PARTS) + 3
    assert json.loads((tmp_path / "out" / "config.json").read_text())["num_hidden_layers"] == 8
    assert verify(str(tmp_path / "out"), deep=True).problems == []
    assert merge(recipe, tmp_path / "out", executor="inline").executor == "none"


def test_the_recipe_in_the_report_makes_the_same_model(models: Path, tmp_path: Path) -> None:
    merge(write(tmp_path, models, STACKED), tmp_path / "out", executor="inline")
    again = plan(tmp_path / "out" / "merge_report.json")
    first = plan(write(tmp_path, models, STACKED))
    assert [tensor.sources for tensor in again.tensors] == [tensor.sources for tensor in first.tensors]
    assert again.sidecars == first.sidecars


def test_scale_and_dtype_of_a_stack(models: Path, tmp_path: Path) -> None:
    text = STACKED.replace(
        "layer_range: [4, 6]", "layer_range: [4, 6], parameters: {scale: [{filter: o_proj, value: 0.5}, {value: 1.0}]}"
    )
    merge(write(tmp_path, models, text, dtype="bfloat16"), tmp_path / "out", executor="inline")
    result, b = load(tmp_path / "out"), load(models / "b")
    name = "self_attn.o_proj.weight"
    assert torch.equal(result[f"model.layers.3.{name}"], (b[f"model.layers.4.{name}"] * 0.5).bfloat16())
    assert torch.equal(result["model.layers.3.mlp.up_proj.weight"], b["model.layers.4.mlp.up_proj.weight"].bfloat16())


MERGED = """\
merge_method: linear
slices:
  - sources:
      - {model: a, layer_range: [0, 3], parameters: {weight: [0.0, 1.0]}}
      - {model: b, layer_range: [1, 4], parameters: {weight: [1.0, 0.0]}}
  - sources: [{model: b, layer_range: [5, 6], parameters: {weight: 1.0}}]
"""


def test_gradients_run_over_the_layers_of_a_slice(models: Path, tmp_path: Path) -> None:
    made = plan(write(tmp_path, models, MERGED))
    weights = {}
    for tensor in made.tensors:
        (disposition,) = made.dispositions(tensor)
        parameters = disposition.parameters or {}
        weights[tensor.name] = (parameters["base_weight"], parameters["weight"])
    up = "mlp.up_proj.weight"
    assert [weights[f"model.layers.{n}.{up}"] for n in range(3)] == [(0.0, [1.0]), (0.5, [0.5]), (1.0, [0.0])]
    assert weights["model.embed_tokens.weight"] == (0.0, [1.0])
    found = reads(made)
    assert found[f"layers.2.{up}"] == [f"a layers.2.{up}", f"b layers.3.{up}"]
    assert found["norm.weight"] == ["b norm.weight"]


def test_other_layers_of_models_are_averaged_as_mergekit_does(models: Path, tmp_path: Path) -> None:
    text = """\
merge_method: linear
parameters: {weight: 0.5}
slices: [{sources: [{model: a, layer_range: [0, 2]}, {model: b, layer_range: [3, 5]}]}]
"""
    merge(write(tmp_path, models, text), tmp_path / "out", executor="inline")
    result, a, b = load(tmp_path / "out"), load(models / "a"), load(models / "b")
    up = "mlp.up_proj.weight"
    expected = (a[f"model.layers.1.{up}"] + b[f"model.layers.4.{up}"]) / 2
    torch.testing.assert_close(result[f"model.layers.1.{up}"], expected)
    assert len(result) == 2 * len(PARTS) + 3


def test_changes_are_calibrated_in_each_slice(models: Path, tmp_path: Path) -> None:
    text = """\
merge_method: ties
base_model: base
slices:
  - sources: [{model: a, layer_range: [0, 2]}, {model: base, layer_range: [0, 2]}]
  - sources: [{model: a, layer_range: [1, 4]}, {model: b, layer_range: [1, 4]}, {model: base, layer_range: [1, 4]}]
"""
    made = plan(write(tmp_path, models, text, calibrate="svc"))
    found = reads(made)
    up = "mlp.up_proj.weight"
    assert found[f"layers.1.{up}"] == [f"base layers.1.{up}", f"a layers.1.{up}"]
    assert found[f"layers.2.{up}"] == [f"base layers.1.{up}", f"a layers.1.{up}", f"b layers.1.{up}"]
    merge(write(tmp_path, models, text, calibrate="svc"), tmp_path / "out", executor="inline")
    assert verify(str(tmp_path / "out")).problems == []


def test_a_range_may_be_of_a_model_with_its_adapter(models: Path, tmp_path: Path) -> None:
    modules = {f"model.layers.{n}.self_attn.q_proj": (HIDDEN, HIDDEN) for n in range(4)}
    write_adapter(tmp_path / "lora", lora(modules))
    text = STACKED.replace(
        "model: a, layer_range: [1, 4]", f"model: {models / 'a'}+{tmp_path / 'lora'}, layer_range: [1, 4]"
    )
    merge(write(tmp_path, models, text), tmp_path / "out", executor="inline")
    result, a = load(tmp_path / "out"), load(models / "a")
    assert not torch.equal(
        result["model.layers.7.self_attn.q_proj.weight"], a["model.layers.3.self_attn.q_proj.weight"]
    )
    assert torch.equal(result["model.layers.7.self_attn.k_proj.weight"], a["model.layers.3.self_attn.k_proj.weight"])


def test_a_rule_takes_layers_of_one_model_and_averages_the_rest(models: Path, tmp_path: Path) -> None:
    text = """\
merge_method: linear
parameters: {weight: 1.0}
models: [{model: a, name: a}, {model: base, name: other}, {model: b, name: b, layer_range: [0, 4]}]
rules:
  - {match: '*mlp*', layer_range: [1, 3], models: b}
  - {match: '*', models: [a, other]}
"""
    found = reads(plan(write(tmp_path, models, text)))
    assert found["layers.1.mlp.up_proj.weight"] == ["b layers.1.mlp.up_proj.weight"]
    assert found["layers.3.mlp.up_proj.weight"] == ["a layers.3.mlp.up_proj.weight", "base layers.3.mlp.up_proj.weight"]
    assert found["norm.weight"] == ["a norm.weight", "base norm.weight"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (STACKED.replace("[1, 4]", "[1, 5]"), "(slices[2].sources[0].layer_range): layers 1 to 4 of"),
        (
            "merge_method: passthrough\nmodels: [{model: a, layer_range: [2, 4]}]",
            "the result has 2 layers, up to 3, but no layer 0",
        ),
        ("merge_method: passthrough\nmodels: [{model: a, at: 2}]", "`at` needs a layer_range"),
    ],
)
def test_layers_that_are_not_there_are_refused(models: Path, tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(RecipeError) as caught:
        plan(write(tmp_path, models, text))
    assert words in str(caught.value)


def test_an_adapter_may_be_the_first_of_the_models_of_a_rule(models: Path, tmp_path: Path) -> None:
    write_adapter(tmp_path / "lora", lora({"model.layers.0.self_attn.q_proj": (HIDDEN, HIDDEN)}))
    text = f"""\
merge_method: linear
base_model: base
parameters: {{weight: 1.0}}
models: [{{model: a, name: a}}, {{model: {tmp_path / "lora"}, name: lora}}]
rules: [{{match: '*q_proj*', models: [lora, a]}}]
"""
    merge(write(tmp_path, models, text), tmp_path / "out", executor="inline")
    result, a, base, added = (
        load(folder) for folder in (tmp_path / "out", models / "a", models / "base", tmp_path / "lora")
    )
    name, prefix = "model.layers.0.self_attn.q_proj", "base_model.model.model.layers.0.self_attn.q_proj"
    delta = added[f"{prefix}.lora_B.weight"] @ added[f"{prefix}.lora_A.weight"] * 2
    expected = (base[f"{name}.weight"] + delta + a[f"{name}.weight"]) / 2
    torch.testing.assert_close(result[f"{name}.weight"], expected)
