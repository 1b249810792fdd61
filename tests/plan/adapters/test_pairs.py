"""What an adapter holds: svc_dist.plan.adapters.pairs with its parts svc_dist.plan.adapters.factor,
svc_dist.plan.adapters.layouts, svc_dist.plan.adapters.ranks,
svc_dist.plan.adapters.sidecars and svc_dist.plan.adapters.costs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import svc_dist
from svc_dist.cli.texts import plan_lines
from svc_dist.errors import PlanError
from svc_dist.plan.model import Plan
from tests.support.adapters import PREFIX, config, llama_modules, lora, write_adapter
from tests.support.checkpoints import llama_like, recipe_data, write_checkpoint, write_llamas


def ranks(plan: Plan) -> dict[str, tuple[int, bool]]:
    """The rank of each pair and whether it is exact, by the tensor that it is for."""
    return {
        str(one.tied_to): (one.factor.rank, one.factor.exact)
        for one in plan.tensors
        if one.factor is not None and one.factor.side == "a"
    }


def models(folder: Path) -> list[Path]:
    base, *_ = write_llamas(folder, experts=0)
    one = write_adapter(folder / "one", lora(llama_modules(("q_proj", "v_proj"))))
    two = write_adapter(folder / "two", lora(llama_modules(("q_proj",)), rank=3), config(3, 3))
    return [base, one, two]


def plan(locations: list[Path], method: str = "task_arithmetic", **keys: Any) -> Plan:
    return svc_dist.make_plan(recipe_data(locations, method, output="adapter", **keys))


def test_ranks_add_up_and_the_rest_is_not_written(tmp_path: Path) -> None:
    made = plan(models(tmp_path))
    assert ranks(made) == {
        f"model.layers.{layer}.self_attn.{name}.weight": (rank, True)
        for layer in range(2)
        for name, rank in (("q_proj", 5), ("v_proj", 2))
    }
    assert made.bytes_in < 10_000, "the base is not read"
    assert [shard.file for shard in made.shards] == ["adapter_model.safetensors"]
    text = "\n".join(plan_lines(made))
    assert "a pair of rank 5, exact: 2 + 3" in text
    assert "4 pairs of factors, ranks 2 to 5; all exact" in text


def test_the_configuration(tmp_path: Path) -> None:
    made = plan(models(tmp_path)).adapter
    assert made is not None
    assert made["target_modules"] == ["q_proj", "v_proj"]
    assert (made["r"], made["lora_alpha"], made["rank_pattern"]) == (5, 5, {"v_proj": 2})
    assert made["alpha_pattern"] == made["rank_pattern"]
    assert made["base_model_name_or_path"] == str(tmp_path / "base")


def test_a_rank_is_a_limit(tmp_path: Path) -> None:
    made = plan(models(tmp_path), rank=4, rules=[{"match": "*.1.*v_proj*", "rank": 1}])
    assert set(ranks(made).values()) == {(4, False), (2, True), (1, False)}


def test_methods_of_full_rank_need_a_rank(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=r"4 tensors like 'model.layers.0.self_attn.q_proj.weight' is not of low rank"):
        plan(models(tmp_path), "ties")
    assert set(ranks(plan(models(tmp_path / "again"), "ties", rank=3)).values()) == {(3, False)}


def test_models_need_a_rank_and_their_vectors_are_saved_whole(tmp_path: Path) -> None:
    base, expert = write_llamas(tmp_path, experts=1)
    with pytest.raises(PlanError, match="expert0 holds it whole"):
        plan([base, expert])
    made = plan([base, expert], rank=4, rules=[{"match": "lm_head.weight", "rank": "full"}])
    assert made.adapter is not None
    assert "lm_head" in made.adapter["modules_to_save"]
    assert "model.layers.0.input_layernorm" in made.adapter["modules_to_save"]
    names = {tensor.name for tensor in made.tensors}
    assert f"{PREFIX}model.embed_tokens.lora_embedding_A" in names
    assert f"{PREFIX}lm_head.weight" in names
    assert made.adapter["target_modules"] == [
        "down_proj", "embed_tokens", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"
    ]  # fmt: skip


def test_dora_is_not_exact(tmp_path: Path) -> None:
    base, one, _ = models(tmp_path)
    tensors = lora(llama_modules(("q_proj",)))
    tensors |= {
        name.replace("lora_B.weight", "lora_magnitude_vector"): one[:, 0].abs() + 1
        for name, one in tensors.items()
        if "lora_B" in name
    }
    dora = write_adapter(tmp_path / "dora", tensors, config(use_dora=True))
    with pytest.raises(PlanError, match="by DoRA"):
        plan([base, one, dora])


def test_a_tensor_that_the_base_does_not_have(tmp_path: Path) -> None:
    base, expert = write_llamas(tmp_path, experts=1)
    tensors = llama_like(1)
    write_checkpoint(tmp_path / "more", tensors | {"value.weight": tensors["lm_head.weight"].clone()})
    keys: dict[str, Any] = {"rank": 2, "rules": [{"match": "value.weight", "keep": "more"}]}
    with pytest.raises(PlanError, match=r"cannot hold 1 tensor like 'value.weight': the base does not have it"):
        plan([base, expert, tmp_path / "more"], **keys)


def test_the_two_factors_of_a_pair_are_in_one_unit(tmp_path: Path) -> None:
    base, *_ = write_llamas(tmp_path, experts=0, hidden=512, intermediate=2048)
    shapes = {f"model.layers.{n}.mlp.up_proj": (2048, 512) for n in range(2)}
    one = write_adapter(tmp_path / "one", lora(shapes, rank=600), config(600, 1))
    made = plan([base, one])
    assert len(made.units) == 2
    assert all(len(unit.pieces) == 2 for unit in made.units)


def test_a_tensor_without_entries_is_not_written(tmp_path: Path) -> None:
    """PEFT refuses an empty tensor in an adapter, and so does svc_dist."""
    models = [write_checkpoint(tmp_path / str(n), llama_like(n) | {"empty.weight": torch.zeros(0, 4)}) for n in (0, 1)]
    made = plan(models, rank=2)
    assert dict(made.not_written)["empty.weight"] == "it has no entries"
