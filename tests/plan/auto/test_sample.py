"""The sample of svc_dist.plan.auto.sample: whole small models in float64, adapters and codes as what they stand for,
bounded bytes, and the same rows each time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import svc_dist
from svc_dist.errors import DamagedInputError, RecipeError
from svc_dist.methods.auto.features import Features
from svc_dist.plan.auto import sample
from tests.support.adapters import config, llama_modules, lora, write_adapter
from tests.support.checkpoints import (
    llama_like,
    llama_shapes,
    poke,
    recipe_data,
    sparse_checkpoint,
    write_checkpoint,
    write_llamas,
)
from tests.support.quantised import FAMILIES, tensors_of, write_quantised


def found(locations: list[Path], **keys: Any) -> Features:
    choice = svc_dist.make_plan(recipe_data(locations, "auto", **keys), device="cpu").auto
    assert choice is not None
    return choice.features


def reference(base: dict[str, Tensor], experts: list[dict[str, Tensor]], names: list[str]) -> dict[str, Any]:
    """The figures of whole matrices."""
    start = torch.cat([base[name].double().reshape(-1) for name in names])
    deltas = [torch.cat([one[name].double().reshape(-1) for name in names]) - start for one in experts]
    energy = [float(delta.square().sum()) for delta in deltas]
    ranks = []
    for name in names:
        for one in experts:
            delta = one[name].double() - base[name].double()
            values = torch.linalg.svdvals(delta).square()
            ranks.append(float(values.sum() ** 2 / values.square().sum()) / min(delta.shape))
    return {
        "times": float(sum(deltas, torch.zeros_like(start)).square().sum()) / sum(energy),
        "changed": sum(float((delta != 0).double().mean()) for delta in deltas) / len(deltas),
        "norms": [float(delta.norm() / start.norm()) for delta in deltas],
        "rank": sum(ranks) / len(ranks),
    }


def matrices(tensors: dict[str, Tensor]) -> list[str]:
    return [name for name, tensor in tensors.items() if tensor.ndim == 2 and "embed" not in name and "head" not in name]


def close(features: Features, expected: dict[str, Any]) -> None:
    for name, value in expected.items():
        assert getattr(features, name) == pytest.approx(value, rel=6e-3), name


def test_small_models_are_sampled_whole(tmp_path: Path) -> None:
    models = write_llamas(tmp_path, experts=3)
    base, *experts = (llama_like(seed) for seed in range(4))
    names = matrices(base)
    features = found(models)
    close(features, reference(base, experts, names))
    read = sum(base[name].nbytes for name in names)
    assert (features.experts, features.tensors, features.bytes_read) == (3, len(names), 4 * read)


def test_an_adapter_is_what_it_adds(tmp_path: Path) -> None:
    modules = llama_modules()
    base = llama_like(0, dtype=torch.float32)
    write_checkpoint(tmp_path / "base", base)
    experts = []
    for seed in (1, 2):
        pairs = lora(modules, seed=seed)
        write_adapter(tmp_path / f"adapter{seed}", pairs, config())
        merged = dict(base)
        for module in modules:
            a, b = (pairs[f"base_model.model.{module}.lora_{side}.weight"] for side in "AB")
            merged[f"{module}.weight"] = base[f"{module}.weight"].double() + 2 * b.double() @ a.double()
        experts.append(merged)
    features = found([tmp_path / name for name in ("base", "adapter1", "adapter2")])
    close(features, reference(base, experts, [f"{module}.weight" for module in modules]))
    assert (features.adapters, features.tensors) == (1.0, len(modules))


@pytest.mark.parametrize("family", ["fp8 blocks", "int4"])
def test_codes_are_what_they_stand_for(family: str, tmp_path: Path) -> None:
    shapes: Any = {f"model.layers.{n}.{kind}_proj.weight": (64, 64) for n in range(2) for kind in "qk"}
    shapes["model.norm.weight"] = (64,)
    models = [tmp_path / name for name in ("base", "one", "two")]
    decoded = [write_quantised(folder, tensors_of(n, shapes), FAMILIES[family]) for n, folder in enumerate(models)]
    features = found(models, quantization="none")
    close(features, reference(decoded[0], decoded[1:], [name for name in shapes if "proj" in name]))


def test_rules_that_keep_tensors_leave_them_out(tmp_path: Path) -> None:
    models = write_llamas(tmp_path)
    every = found(models).tensors
    assert found(models, rules=[{"match": "*mlp*", "keep": "base"}]).tensors == every - 6


def test_the_largest_models_are_sampled_in_bounded_bytes(tmp_path: Path) -> None:
    shapes = llama_shapes(layers=80, hidden=8192, intermediate=28672, vocabulary=128256, kv=1024)
    models = [sparse_checkpoint(tmp_path / name, shapes) for name in ("base", "one", "two")]
    features = found(models)
    assert features.tensors == 16
    assert 3 * 8e6 < features.bytes_read <= 3 * 16 * 2**20


def test_rows_come_from_all_layers_and_kinds() -> None:
    names = [f"model.layers.{n}.{kind}.weight" for n in range(32) for kind in "qkvogud"]
    places = [int((number + 0.5) * sample._GOLDEN % 1 * len(names)) for number in range(16)]
    chosen = [names[place].split(".") for place in places]
    assert len({layer for _, _, layer, *_ in chosen}) == 16
    assert len({kind for *_, kind, _ in chosen}) >= 6


def test_sampling_again_gives_the_same_figures(tmp_path: Path) -> None:
    models = write_llamas(tmp_path, layers=4, hidden=96, intermediate=160)
    assert found(models) == found(models)


def test_a_recipe_without_auto_reads_no_weight(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sample, "sampled_features", lambda *_: pytest.fail("sampled"))
    assert svc_dist.make_plan(recipe_data(write_llamas(tmp_path), "ties"), device="cpu").auto is None


@pytest.mark.parametrize("number", [0, 2])
def test_damage_is_named(number: int, tmp_path: Path) -> None:
    models = write_llamas(tmp_path)
    name = "model.layers.0.self_attn.q_proj.weight"
    file = next(one for one in sorted(models[number].glob("*.safetensors")) if name.encode() in one.read_bytes()[:4000])
    poke(file, name, 3, float("nan"))
    with pytest.raises(DamagedInputError) as caught:
        svc_dist.make_plan(recipe_data(models, "tsv_m", calibrate="auto"), device="cpu")
    assert caught.value.message == f"{models[number]}: the tensor '{name}' holds NaN or Inf"
    assert caught.value.hint == "use another checkpoint of this model"


def test_models_without_a_common_matrix_are_refused(tmp_path: Path) -> None:
    models = write_llamas(tmp_path)
    with pytest.raises(RecipeError, match="auto finds no matrix to look at") as caught:
        found(models, rules=[{"match": "*", "keep": "base"}])
    assert caught.value.code == "auto-refused"
