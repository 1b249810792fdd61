"""A base with an adapter (``base_model: model+adapter``) is the model that merging the adapter into it would give."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import svc_dist
from svc_dist.plan.model import Plan
from tests.support.adapters import PREFIX, config, llama_modules, lora, write_adapter
from tests.support.checkpoints import llama_config, llama_like, write_checkpoint
from tests.support.command import shard_hashes

MODULES = llama_modules(("q_proj", "v_proj", "down_proj"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A ``model``, ``merged`` (the model with ``a0`` merged into it), ``whole`` (another fine-tune), and adapters."""
    model = llama_like(0, dtype=torch.float32)
    adapters = [lora(MODULES, seed=number) for number in range(3)]
    adapters[0][f"{PREFIX}model.norm.weight"] = torch.randn(16, generator=torch.Generator().manual_seed(9))
    for name, tensors in (("model", model), ("whole", llama_like(1, dtype=torch.float32))):
        write_checkpoint(tmp_path / name, tensors, config=llama_config(torch_dtype="float32"))
    for number, adapter in enumerate(adapters):
        settings = config(modules_to_save=["norm"]) if number == 0 else config()
        write_adapter(tmp_path / f"a{number}", adapter, settings)
        write_checkpoint(tmp_path / f"m{number}", merged(model, adapter), config=llama_config(torch_dtype="float32"))
    return tmp_path


def merged(model: dict[str, Tensor], adapter: dict[str, Tensor]) -> dict[str, Tensor]:
    """The model with an adapter of scale 2 merged into it, rounded once."""
    result = dict(model)
    for module in MODULES:
        a, b = (adapter[f"{PREFIX}{module}.lora_{side}.weight"].double() for side in "AB")
        result[f"{module}.weight"] = (model[f"{module}.weight"].double() + 2 * (b @ a)).float()
    return result | {key.removeprefix(PREFIX): value for key, value in adapter.items() if ".lora_" not in key}


def recipe(folder: Path, base: str, experts: list[str], method: str, **keys: Any) -> dict[str, Any]:
    def located(name: str) -> str:
        return "+".join(str(folder / part) for part in name.split("+"))

    models = [{"model": located(name)} for name in experts]
    return {"base_model": located(base), "models": models, "merge_method": method, "dtype": "float32"} | keys


def tensors(output: Path) -> dict[str, Tensor]:
    return {name: value for file in output.glob("*.safetensors") for name, value in load_file(file).items()}


def planned(data: dict[str, Any]) -> Plan:
    return svc_dist.make_plan(data, device="cpu")


#: Each with the experts as they are named over model+a0, and the same whole.
CASES = {
    "adapters of the plain model": ("task_arithmetic", ["model+a1", "model+a2"], ["m1", "m2"], {}),
    "the plain model": ("ties", ["model", "whole"], ["model", "whole"], {"parameters": {"weight": 0.5}}),
    "the base among the models": ("slerp", ["model+a0", "whole"], ["m0", "whole"], {"parameters": {"t": 0.3}}),
    "a spectral method": ("tsv_m", ["model+a1", "whole"], ["m1", "whole"], {}),
    "model_stock": ("model_stock", ["model+a1", "model+a2", "model"], ["m1", "m2", "model"], {}),
    "a rule that keeps": (
        "task_arithmetic", ["model+a1", "whole"], ["m1", "whole"],
        {"rules": [{"match": "*layers.0.*", "keep": "base"}, {"match": "*layers.1.mlp*", "keep": "model"}]},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_it_is_the_base_with_the_adapter_merged(case: str, folder: Path) -> None:
    method, experts, whole, keys = CASES[case]
    if "rules" in keys:
        experts, whole = [*experts, "model"], [*whole, "model"]
    svc_dist.merge(recipe(folder, "model+a0", experts, method, **keys), folder / "out", executor="inline")
    svc_dist.merge(recipe(folder, "m0", whole, method, **keys), folder / "expected", executor="inline")
    ours, expected = tensors(folder / "out"), tensors(folder / "expected")
    assert ours.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.allclose(ours[name], tensor, rtol=1e-5, atol=2e-6 if method == "tsv_m" else 2e-7), name


def test_an_adapter_alone_is_one_to_the_base_with_its_adapter(folder: Path) -> None:
    svc_dist.merge(recipe(folder, "model+a0", ["a1"], "task_arithmetic"), folder / "out", executor="inline")
    ours, first, second, model = (tensors(folder / name) for name in ("out", "m0", "m1", "model"))
    for name, tensor in ours.items():
        assert torch.allclose(tensor, first[name] + second[name] - model[name], atol=1e-6), name


def test_a_merge_without_base_model_may_begin_with_an_adapter(folder: Path) -> None:
    data = recipe(folder, "model", ["model+a1", "model+a2"], "linear")
    del data["base_model"]
    svc_dist.merge(data, folder / "out", executor="inline")
    ours, first, second = (tensors(folder / name) for name in ("out", "m1", "m2"))
    assert all(torch.allclose(ours[name], (first[name] + second[name]) / 2, atol=1e-6) for name in ours)


def test_the_plan_reads_the_model_below_once_and_counts_what_the_adapter_takes(folder: Path) -> None:
    plan = planned(recipe(folder, "model+a0", ["model+a1", "model"], "task_arithmetic"))
    assert plan.models[0].name == f"{folder}/model+{folder}/a0"
    assert [one.location.rpartition("/")[2] for one in plan.inputs] == ["model", "model", "model", "a0", "a1"]
    changed = next(one for one in plan.tensors if one.name.endswith("layers.0.self_attn.q_proj.weight"))
    assert changed.base_factors
    assert {source.input for source in changed.sources if source is not None} == {0}
    assert {number for number, _ in changed.reads(0, 16)} == {0, 3, 4}
    assert plan.joins
    plain = planned(recipe(folder, "model", ["model+a1"], "task_arithmetic"))
    assert plain.fingerprint != plan.fingerprint
    assert not any(tensor.base_factors for tensor in plain.tensors)
    assert Plan.from_json(plan.to_json()) == plan


def test_rows_beyond_the_merged_ones_have_the_bases_adapter(folder: Path) -> None:
    """``vocab: base`` and the like copy the last rows from the base: with what its adapter adds to them."""
    embedding = {"model.embed_tokens": (16, 40)}
    pair = lora(embedding, seed=5)
    named = {key.replace("lora_A.weight", "lora_embedding_A").replace("lora_B.weight", "lora_embedding_B"): value
             for key, value in pair.items()}  # fmt: skip
    write_adapter(folder / "e", named, config())
    data = recipe(folder, "model+e", ["whole"], "task_arithmetic", rules=[{"match": "*embed*", "keep": "base"}])
    svc_dist.merge(data, folder / "out", executor="inline")
    a, b = (named[f"{PREFIX}model.embed_tokens.lora_embedding_{side}"] for side in "AB")
    weight = load_file(folder / "model" / "model-00001-of-00002.safetensors")["model.embed_tokens.weight"]
    merged_rows = tensors(folder / "out")["model.embed_tokens.weight"]
    assert torch.allclose(merged_rows, weight + 2 * (b @ a).T, atol=1e-6)


def test_small_shards_and_units_give_the_same_bytes(folder: Path) -> None:
    data = recipe(folder, "model+a0", ["model+a1", "whole"], "ties", parameters={"density": 0.6, "weight": 0.5})
    svc_dist.merge(data, folder / "out", executor="inline")
    again = svc_dist.merge(data, folder / "out", executor="inline")
    assert again.units_resumed == again.units
    svc_dist.merge(data, folder / "other", executor="inline", slots=1)
    assert shard_hashes(folder / "out") == shard_hashes(folder / "other")
