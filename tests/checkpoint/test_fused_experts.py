"""The experts of a mixture in one layout over a base in the other: the same bytes, from ranges of either."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import svc_dist
from svc_dist.checkpoint.checkpoint import Checkpoint, open_checkpoint
from svc_dist.checkpoint.fused_experts import fused_name, fused_shapes, in_layout_of, place_of, slices
from svc_dist.errors import PlanError
from tests.support.adapters import PREFIX, config, write_adapter
from tests.support.checkpoints import write_checkpoint, write_recipe

#: Names of version 4 for gate, up, down and the router; and of version 5 for the block.
FAMILIES = {
    "qwen": ("mlp", ("gate_proj", "up_proj", "down_proj"), "mlp"),
    "mixtral": ("block_sparse_moe", ("w1", "w3", "w2"), "mlp"),
    "jamba": ("feed_forward", ("gate_proj", "up_proj", "down_proj"), "feed_forward"),
}
COUNT, HIDDEN, INNER = 3, 8, 6


def both_layouts(seed: int, family: str = "qwen") -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """One model with fused experts and with single ones."""
    generator = torch.Generator().manual_seed(seed)
    old, names, new = FAMILIES[family]
    single: dict[str, Tensor] = {}
    fused: dict[str, Tensor] = {}
    for layer in range(2):
        prefix = f"model.layers.{layer}"
        gate_up = torch.randn(COUNT, 2 * INNER, HIDDEN, generator=generator).bfloat16()
        down = torch.randn(COUNT, HIDDEN, INNER, generator=generator).bfloat16()
        router = torch.randn(COUNT, HIDDEN, generator=generator).bfloat16()
        fused |= {f"{prefix}.{new}.experts.gate_up_proj": gate_up, f"{prefix}.{new}.experts.down_proj": down}
        fused[f"{prefix}.{new}.gate.weight"] = single[f"{prefix}.{old}.gate.weight"] = router
        for number in range(COUNT):
            parts = (gate_up[number, :INNER], gate_up[number, INNER:], down[number])
            for name, part in zip(names, parts, strict=True):
                single[f"{prefix}.{old}.experts.{number}.{name}.weight"] = part
    return fused, single


def merged(folder: Path, models: list[dict[str, Tensor]], **recipe: Any) -> dict[str, Tensor]:
    paths = [write_checkpoint(folder / f"m{number}", model, shards=2) for number, model in enumerate(models)]
    svc_dist.merge(write_recipe(folder / "r.yaml", paths, **recipe), folder / "out")
    found: dict[str, Tensor] = {}
    for file in sorted((folder / "out").glob("*.safetensors")):
        found |= load_file(file)
    return found


METHODS: list[dict[str, Any]] = [
    {"merge_method": "task_arithmetic", "parameters": {"lambda": 0.7}},
    {"merge_method": "task_arithmetic", "calibrate": "svc"},
    {"merge_method": "ties", "parameters": {"density": 0.5}},
    {"merge_method": "dare_linear", "parameters": {"density": 0.5}},
    {"merge_method": "iso_c"},
]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("fused_base", [True, False])
@pytest.mark.parametrize("recipe", METHODS[:1])
def test_layouts_of_a_family(family: str, fused_base: bool, recipe: dict[str, Any], tmp_path: Path) -> None:
    assert_one_result(family, fused_base, recipe, tmp_path)


@pytest.mark.parametrize("fused_base", [True, False])
@pytest.mark.parametrize("recipe", METHODS[1:])
def test_layouts_with_every_kind_of_method(fused_base: bool, recipe: dict[str, Any], tmp_path: Path) -> None:
    assert_one_result("qwen", fused_base, recipe, tmp_path)


def assert_one_result(family: str, fused_base: bool, recipe: dict[str, Any], tmp_path: Path) -> None:
    """Experts of both layouts over one base give the bytes of the experts in the base's layout."""
    own, other = (0, 1) if fused_base else (1, 0)
    models = [both_layouts(seed, family) for seed in range(3)]
    expected = merged(tmp_path / "one", [model[own] for model in models], **recipe)
    mixed = merged(tmp_path / "both", [models[0][own], models[1][other], models[2][own]], **recipe)
    foreign = merged(tmp_path / "other", [models[0][own], models[1][other], models[2][other]], **recipe)
    assert expected.keys() == mixed.keys() == foreign.keys() == models[0][own].keys()
    for name, tensor in expected.items():
        assert torch.equal(tensor, mixed[name]), name
        assert torch.equal(tensor, foreign[name]), name


def opened(folder: Path, tensors: dict[str, Tensor]) -> Checkpoint:
    return open_checkpoint(str(write_checkpoint(folder, tensors, shards=2)))


def test_a_fused_tensor_is_its_parts_in_the_order_of_its_bytes(tmp_path: Path) -> None:
    fused, single = both_layouts(0)
    base, model = opened(tmp_path / "fused", fused), opened(tmp_path / "single", single)
    aligned = in_layout_of(model, base)
    assert aligned.tensors.keys() == base.tensors.keys()
    spec = aligned.tensors["model.layers.1.mlp.experts.gate_up_proj"]
    assert spec.shape == (COUNT, 2 * INNER, HIDDEN)
    parts = [part.name.removeprefix("model.layers.1.mlp.experts.") for part in spec.parts]
    assert parts == [f"{n}.{part}_proj.weight" for n in range(COUNT) for part in ("gate", "up")]
    cut = in_layout_of(base, model).tensors["model.layers.0.mlp.experts.2.up_proj.weight"]
    whole = base.tensors["model.layers.0.mlp.experts.gate_up_proj"]
    assert (cut.start, cut.end) == (whole.end - INNER * HIDDEN * 2, whole.end)


@pytest.mark.parametrize(
    "changed",
    [
        lambda single: single.pop("model.layers.0.mlp.experts.1.up_proj.weight"),
        lambda single: single.update({"model.layers.0.mlp.experts.3.gate_proj.weight": torch.ones(INNER, HIDDEN)}),
        lambda single: single.update({"model.layers.0.mlp.experts.1.down_proj.weight": torch.ones(INNER, HIDDEN)}),
    ],
)
def test_experts_that_do_not_fit_are_refused_by_their_own_names(changed: Any, tmp_path: Path) -> None:
    fused, _ = both_layouts(0)
    _, single = both_layouts(1)
    changed(single)
    with pytest.raises(PlanError, match=r"model.layers.0.mlp.experts.*not in the base|missing in"):
        merged(tmp_path, [fused, single])


def test_transposed_experts_are_not_taken_for_the_parts(tmp_path: Path) -> None:
    """gpt-oss stores ``(E, in, out)``, gate and up interleaved; a square shape must not look like another layout."""
    base = {"m.mlp.experts.gate_up_proj": torch.ones(2, 8, 8), "m.mlp.experts.down_proj": torch.ones(2, 4, 8)}
    single = {f"m.mlp.experts.{n}.{part}_proj.weight": torch.ones(4, 8) for n in range(2) for part in ("gate", "up")}
    single |= {f"m.mlp.experts.{n}.down_proj.weight": torch.ones(8, 4) for n in range(2)}
    aligned = in_layout_of(opened(tmp_path / "a", single), opened(tmp_path / "b", base))
    assert aligned.tensors.keys() == single.keys()


def test_an_expert_without_a_gate(tmp_path: Path) -> None:
    """Nemotron-H: ``up_proj (E, I, H)`` alone."""
    base = {"m.mixer.experts.up_proj": torch.ones(2, 6, 8), "m.mixer.experts.down_proj": torch.ones(2, 8, 6)}
    single = {f"m.mixer.experts.{n}.up_proj.weight": torch.ones(6, 8) for n in range(2)}
    single |= {f"m.mixer.experts.{n}.down_proj.weight": torch.ones(8, 6) for n in range(2)}
    first, second = opened(tmp_path / "a", single), opened(tmp_path / "b", base)
    assert in_layout_of(first, second).tensors.keys() == base.keys()
    assert in_layout_of(second, first).tensors.keys() == single.keys()
    assert fused_shapes("m.mixer.experts", first.tensors) == {name: tensor.shape for name, tensor in base.items()}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("block_sparse_moe.input_linear.weight", "block_sparse_moe.experts.gate_up_proj"),  # Granite
        ("block_sparse_moe.router.layer.weight", "block_sparse_moe.router.weight"),
        ("mlp.experts.fc2.weight", "mlp.experts.down_proj"),  # Aria
        ("block_sparse_moe.gate.weight", "mlp.router.weight"),  # Phi
        ("block_sparse_moe.e_score_correction_bias", "mlp.e_score_correction_bias"),  # MiniMax
        ("mlp.gate.expert_bias", "mlp.gate.e_score_correction_bias"),  # Bailing
    ],
)
def test_tensors_that_only_have_another_name(old: str, new: str, tmp_path: Path) -> None:
    first = opened(tmp_path / "a", {f"model.layers.0.{old}": torch.ones(2, 4, 6), "x": torch.ones(2)})
    second = opened(tmp_path / "b", {f"model.layers.0.{new}": torch.ones(2, 4, 6), "x": torch.ones(2)})
    assert in_layout_of(first, second).tensors.keys() == second.tensors.keys()
    assert in_layout_of(second, first).tensors.keys() == first.tensors.keys()


def test_places_of_single_experts(tmp_path: Path) -> None:
    fused, single = both_layouts(0)
    model = opened(tmp_path / "single", single)
    name = "model.layers.0.mlp.experts.gate_up_proj"
    every = slices(name, (COUNT, 2 * INNER, HIDDEN), model.tensors)
    assert [(one.expert, one.top, one.rows) for one in every[:3]] == [(0, 0, INNER), (0, INNER, INNER), (1, 0, INNER)]
    assert place_of(every[2].name, name, (COUNT, 2 * INNER, HIDDEN)) == every[2]
    assert place_of("model.layers.0.mlp.experts.9.up_proj.weight", name, (COUNT, 2 * INNER, HIDDEN)) is None
    assert fused_name(every[2].name, opened(tmp_path / "fused", fused).tensors) == name
    assert fused_name("model.layers.0.mlp.up_proj.weight", model.tensors) is None


@pytest.mark.parametrize("dora", [False, True])
def test_an_adapter_of_single_experts_over_a_fused_base(dora: bool, tmp_path: Path) -> None:
    """Each pair adds to its rows; experts without a pair keep the base's bytes."""
    fused, _ = both_layouts(0)
    base = write_checkpoint(tmp_path / "base", fused, shards=1)
    generator = torch.Generator().manual_seed(1)
    tensors: dict[str, Tensor] = {}
    for part, top in (("1.gate_proj", 0), ("1.up_proj", INNER), ("2.up_proj", INNER)):
        module = f"{PREFIX}model.layers.0.mlp.experts.{part}"
        tensors[f"{module}.lora_A.weight"] = a = torch.randn(2, HIDDEN, generator=generator)
        tensors[f"{module}.lora_B.weight"] = b = torch.randn(INNER, 2, generator=generator)
        if dora:
            tensors[f"{module}.lora_magnitude_vector"] = torch.ones(INNER)
        expected = fused["model.layers.0.mlp.experts.gate_up_proj"][int(part[0]), top : top + INNER].float()
        tensors[f"expected {part}"] = (expected + 2.0 * b @ a).bfloat16()
    expected_parts = {key: tensors.pop(key) for key in list(tensors) if key.startswith("expected")}
    adapter = write_adapter(tmp_path / "a", tensors, config(use_dora=dora))
    recipe = write_recipe(tmp_path / "r.yaml", [base, adapter])
    if dora:
        with pytest.raises(PlanError, match="DoRA of an expert whose weights"):
            svc_dist.merge(recipe, tmp_path / "out")
        return
    svc_dist.merge(recipe, tmp_path / "out")
    result = load_file(tmp_path / "out" / "model.safetensors")["model.layers.0.mlp.experts.gate_up_proj"]
    own = fused["model.layers.0.mlp.experts.gate_up_proj"]
    assert torch.equal(result[0], own[0])
    assert torch.equal(result[2, :INNER], own[2, :INNER])
    assert torch.equal(result[1, :INNER], expected_parts["expected 1.gate_proj"])
    assert torch.equal(result[1, INNER:], expected_parts["expected 1.up_proj"])
    assert torch.equal(result[2, INNER:], expected_parts["expected 2.up_proj"])
