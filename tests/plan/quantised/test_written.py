"""What a recipe can ask of weights that are written in codes, and what the result's files say about them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import svc_dist
from svc_dist.checks.verify import verify
from svc_dist.errors import PlanError, RecipeError
from tests.plan.quantised.test_decoded import models, recipe


def with_scales(folder: str) -> dict[str, torch.Tensor]:
    """Add scales of activations to a model: them."""
    file = Path(folder) / "model-00001-of-00002.safetensors"
    scales = {f"model.layers.0.self_attn.q_proj.{kind}": torch.full((), 0.25) for kind in ("input_scale", "k_scale")}
    save_file({**load_file(file), **scales}, file)
    index = Path(folder) / "model.safetensors.index.json"
    names = "".join(f'"{name}": "{file.name}", ' for name in scales)
    index.write_text(index.read_text().replace('"weight_map": {', '"weight_map": {' + names))
    return scales


def test_scales_of_activations_are_carried_and_said(tmp_path: Path) -> None:
    names, _ = models(tmp_path, "fp8 tensor", ["fp8 tensor"])
    scales = with_scales(names[0])
    plan = svc_dist.make_plan(recipe(names))
    (warning,) = [one for one in plan.warnings if "scales of activations" in one]
    assert "2 tensors like" in warning
    svc_dist.merge(recipe(names), tmp_path / "out", executor="inline")
    result = load_file(tmp_path / "out/model.safetensors")
    assert {name: float(result[name]) for name in scales} == dict.fromkeys(scales, 0.25)
    assert not verify(str(tmp_path / "out"), deep=True).problems


def test_a_dtype_for_codes_is_refused(tmp_path: Path) -> None:
    names, _ = models(tmp_path, "fp8 blocks", [None])
    rules = [{"match": "*q_proj.weight", "dtype": "float32"}]
    with pytest.raises(RecipeError, match=r"the base stores model\.layers\.0\.self_attn\.q_proj\.weight in codes"):
        svc_dist.make_plan(recipe(names, rules=rules))
    plan = svc_dist.make_plan(recipe(names, dtype="float32"))  # of all other weights
    dtypes = {tensor.name.split(".")[-2]: (tensor.dtype, tensor.codec is None) for tensor in plan.tensors}
    assert dtypes["q_proj"] == ("BF16", False)
    assert dtypes["embed_tokens"] == ("F32", True)


def test_a_config_of_another_model_says_what_the_base_says(tmp_path: Path) -> None:
    names, _ = models(tmp_path, "fp8 blocks", [None])
    svc_dist.merge(recipe(names, config_source=names[1]), tmp_path / "out", executor="inline")
    declared = [json.loads(Path(one, "config.json").read_text()) for one in (names[0], tmp_path / "out")]
    assert declared[0]["quantization_config"] == declared[1]["quantization_config"]
    config = Path(names[1], "config.json")
    config.write_text(json.dumps({"text_config": {"quantization_config": {"quant_method": "fp8"}}}))
    with pytest.raises(PlanError, match="declares its quantisation elsewhere"):
        svc_dist.make_plan(recipe(names, config_source=names[1]))


def test_a_base_that_is_not_quantised_has_no_codes_to_write(tmp_path: Path) -> None:
    names, _ = models(tmp_path, None, ["fp8 blocks"])
    plan = svc_dist.make_plan(recipe(names, quantization="base"))
    assert not any(tensor.codec for tensor in plan.tensors)
