"""Every tensor is written in the dtype that its rule or the recipe asks for, or stays as wide as it must be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import svc_dist
from svc_dist.cli.texts import plan_lines
from svc_dist.errors import RecipeError
from svc_dist.plan.model import Plan
from tests.support.checkpoints import recipe_data, write_checkpoint

WEIGHT = "model.layers.0.mlp.up_proj.weight"
NORM = "model.layers.0.input_layernorm.weight"
ODD = "model.layers.0.mlp.gate.weight"
LOG = "backbone.layers.0.mixer.A_log"
WIDE = [
    "model.layers.3.mlp.gate.e_score_correction_bias", "model.layers.3.mlp.moe_statics.e_score_correction_bias",
    "model.layers.3.moe.expert_bias", "model.layers.0.self_attn.rotary_emb.inv_freq", "encoder.embed_positions.weights",
    LOG, "backbone.layers.0.mixer.D", "model.layers.0.linear_attn.dt_bias", "logit_scale",
    "model.layers.0.self_attn.k_scale", "vision.bn.running_var", "gpt_neox.layers.0.attention.masked_bias",
]  # fmt: skip


def models(folder: Path, narrow: bool = True) -> list[Path]:
    made = []
    for number, name in enumerate(("base", "a", "b")):
        generator = torch.Generator().manual_seed(number)
        tensors: dict[str, Tensor] = {one: 6.9 + torch.randn(8, generator=generator) for one in (*WIDE, NORM)}
        tensors[ODD] = torch.randn(4, 8, generator=generator)
        weight = torch.randn(64, 64, generator=generator)
        tensors[WEIGHT] = weight.bfloat16() if narrow else weight
        tensors["model.position_ids"] = torch.arange(8)
        made.append(write_checkpoint(folder / name, tensors, shards=1))
    return made


def dtypes(plan: Plan) -> dict[str, str]:
    return {tensor.name: tensor.dtype for tensor in plan.tensors}


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_what_must_stay_wide_does_and_the_plan_says_why(tmp_path: Path, dtype: str) -> None:
    plan = svc_dist.make_plan(recipe_data(models(tmp_path), dtype=dtype))
    found = dtypes(plan)
    code = {"bfloat16": "BF16", "float16": "F16"}[dtype]
    assert {name: found[name] for name in (*WIDE, NORM)} == dict.fromkeys((*WIDE, NORM), "F32")
    assert (found[WEIGHT], found["model.position_ids"], found[ODD]) == (code, "I64", code)
    text = "\n".join(plan_lines(plan))
    assert "stays float32: it decides between experts" in text
    assert "stays float32: a norm" in text
    (warning,) = plan.warnings
    assert f"narrows 1 tensor like {ODD} to {dtype}" in warning
    assert "`dtype: float32` in a rule" in warning


def test_in_a_base_of_float32_norms_become_as_narrow_as_the_rest(tmp_path: Path) -> None:
    plan = svc_dist.make_plan(recipe_data(models(tmp_path, narrow=False), dtype="bfloat16"))
    found = dtypes(plan)
    assert (found[NORM], found[ODD], found[WEIGHT]) == ("BF16", "BF16", "BF16")
    assert {found[name] for name in WIDE} == {"F32"}
    assert not plan.warnings


def test_without_a_dtype_or_with_a_wide_one_nothing_is_special(tmp_path: Path) -> None:
    found = models(tmp_path)
    assert dtypes(svc_dist.make_plan(recipe_data(found)))[WEIGHT] == "BF16"
    wide = svc_dist.make_plan(recipe_data(found, dtype="float32"))
    assert set(dtypes(wide).values()) == {"F32", "I64"}
    assert not wide.warnings
    assert "stays" not in "\n".join(plan_lines(wide))


def test_a_rule_says_another_dtype_and_kept_tensors_keep_their_bytes(tmp_path: Path) -> None:
    found = models(tmp_path)
    rules: list[dict[str, Any]] = [
        {"match": "*e_score_correction_bias", "dtype": "bfloat16"},
        {"match": ODD, "dtype": "torch.float32", "merge_method": "linear"},
        {"match": NORM, "keep": "base"},
        {"match": "*A_log", "keep": "a", "dtype": "float16"},
        {"match": WEIGHT, "keep": "base"},
    ]
    recipe = recipe_data(found, dtype="float16", rules=rules)
    plan = svc_dist.make_plan(recipe)
    assert not plan.warnings
    assert "rules[0], as bfloat16" in "\n".join(plan_lines(plan))
    svc_dist.merge(recipe, tmp_path / "out", executor="inline")
    base, one, merged = (load_file(tmp_path / name / "model.safetensors") for name in ("base", "a", "out"))
    assert merged[WIDE[0]].dtype == merged[WIDE[1]].dtype == torch.bfloat16
    assert merged[ODD].dtype == torch.float32
    for name in (NORM, WEIGHT):
        assert merged[name].dtype == base[name].dtype
        assert torch.equal(merged[name], base[name])
    assert torch.equal(merged[LOG], one[LOG].half())


def test_an_unknown_dtype_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"'fp8' is not one of bfloat16"):
        svc_dist.make_plan(recipe_data(models(tmp_path), rules=[{"match": "*", "dtype": "fp8"}]))
