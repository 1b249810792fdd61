"""Units of adapters (svc_dist.run.pairs.unit_pairs): the merged model again, receipts, and damaged inputs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import svc_dist
from svc_dist.errors import DamagedInputError
from tests.support.adapters import PREFIX, config, llama_modules, lora, write_adapter
from tests.support.checkpoints import poke, recipe_data, write_checkpoint, write_llamas


def tensors(folder: Path) -> dict[str, Tensor]:
    return {name: one for file in sorted(folder.glob("*.safetensors")) for name, one in load_file(file).items()}


def both(folder: Path, recipe: dict[str, Any], **adapter: Any) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The tensors of the merged model, and of the base with the adapter that the same recipe writes."""
    recipe = recipe | {"dtype": "float32"}
    svc_dist.merge(recipe, folder / "dense")
    svc_dist.merge(recipe | {"output": "adapter"} | adapter, folder / "adapter")
    again = recipe_data([recipe["base_model"], folder / "adapter"], dtype="float32")
    svc_dist.merge(again, folder / "again")
    return tensors(folder / "dense"), tensors(folder / "again")


def experts(folder: Path) -> list[Path]:
    base, *_ = write_llamas(folder, experts=0, dtype=torch.float32)
    one = write_adapter(folder / "one", lora(llama_modules(("q_proj", "v_proj")), seed=1))
    generator = torch.Generator().manual_seed(2)
    two = lora(llama_modules(("q_proj", "down_proj")), rank=3, seed=2)
    two[f"{PREFIX}model.embed_tokens.lora_embedding_A"] = torch.randn(3, 40, generator=generator)
    two[f"{PREFIX}model.embed_tokens.lora_embedding_B"] = torch.randn(16, 3, generator=generator)
    two[f"{PREFIX}model.norm.weight"] = torch.randn(16, generator=generator)
    return [base, one, write_adapter(folder / "two", two, config(3, 5, use_rslora=True, modules_to_save=["norm"]))]


@pytest.mark.parametrize(
    "keys",
    [
        {"parameters": {"weight": 0.3, "lambda": 0.8}},
        {"merge_method": "linear"},
        {"merge_method": "tsv_m"},
        {"calibrate": "svc"},
        {"rules": [{"match": "*q_proj*", "keep": "two"}]},
        {"parameters": {"weight": [0.1, 1.0]}},
    ],
    ids=str,
)
def test_the_adapter_is_the_merged_model(tmp_path: Path, keys: dict[str, Any]) -> None:
    dense, again = both(tmp_path, recipe_data(experts(tmp_path)) | keys)
    for name, tensor in dense.items():
        torch.testing.assert_close(again[name], tensor, rtol=0, atol=2e-6, msg=name)


def test_a_method_of_full_rank_at_full_rank(tmp_path: Path) -> None:
    dense, again = both(tmp_path, recipe_data(experts(tmp_path), "ties"), rank=16)
    for name, tensor in dense.items():
        torch.testing.assert_close(again[name], tensor, rtol=1e-5, atol=1e-5, msg=name)


def report_of(folder: Path) -> list[dict[str, Any]]:
    """The summaries of a result's matrices."""
    entries: list[dict[str, Any]] = json.loads((folder / "merge_report.json").read_text())["matrices"]
    return entries


def test_receipts_state_the_error_of_each_matrix(tmp_path: Path) -> None:
    base, expert = write_llamas(tmp_path, experts=1)
    svc_dist.merge(recipe_data([base, expert], output="adapter", rank=4), tmp_path / "out")
    again = recipe_data([base, tmp_path / "out"], dtype="float32")
    svc_dist.merge(again, tmp_path / "again")
    before, after, result = (tensors(folder) for folder in (base, expert, tmp_path / "again"))
    matrices = json.loads((tmp_path / "out" / "merge_report.json").read_text())["matrices"]
    assert len(matrices) == 16
    for entry in matrices:
        name = entry["tensor"]
        delta = after[name].double() - before[name].double()
        values = torch.linalg.svdvals(delta)
        best = float(torch.linalg.vector_norm(values[4:]) / torch.linalg.vector_norm(values))
        missed = float(torch.linalg.matrix_norm(result[name].double() - after[name].double()) / entry["norm"])
        assert entry["error"] == pytest.approx(best, rel=1e-6)
        assert missed == pytest.approx(best, rel=1e-5)
    for name in after:
        if "norm" in name:  # saved whole
            assert torch.equal(result[name], after[name].float())


def test_a_damaged_adapter_is_named(tmp_path: Path) -> None:
    locations = experts(tmp_path)
    poke(
        tmp_path / "one" / "adapter_model.safetensors",
        f"{PREFIX}model.layers.1.self_attn.v_proj.lora_B.weight", 3, float("nan"),
    )  # fmt: skip
    with pytest.raises(DamagedInputError, match=r"one/adapter_model.safetensors: lora_B of tensor .*v_proj"):
        svc_dist.merge(recipe_data(locations, output="adapter"), tmp_path / "out")


def test_adapters_of_single_experts_over_fused_ones(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(5)
    block = "model.layers.0.mlp.experts"
    base = write_checkpoint(
        tmp_path / "base",
        {
            f"{block}.gate_up_proj": torch.randn(3, 8, 6, generator=generator),
            f"{block}.down_proj": torch.randn(3, 6, 4, generator=generator),
        },
    )
    modules = {f"{block}.{number}.{part}": (4, 6) for number in (0, 2) for part in ("gate_proj", "up_proj")}
    one = write_adapter(tmp_path / "one", lora(modules | {f"{block}.1.down_proj": (6, 4)}, seed=1))
    two = write_adapter(tmp_path / "two", lora({f"{block}.2.up_proj": (4, 6)}, rank=3, seed=2), config(3, 2))
    recipe = recipe_data([base, one, two], parameters={"weight": 0.4})
    dense, again = both(tmp_path, recipe)
    for name, tensor in dense.items():
        torch.testing.assert_close(again[name], tensor, rtol=0, atol=2e-6, msg=name)
    written = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert written["target_parameters"] == ["down_proj", "gate_up_proj"]
    assert all(entry["error"] == 0 for entry in report_of(tmp_path / "adapter"))
