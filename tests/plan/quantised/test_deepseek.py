"""DeepSeek-V3, planned from headers of its names and files: weights and scales that lie in different shards."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import svc_dist
from svc_dist.checkpoint.adapters.adapter import open_expert
from svc_dist.plan.model import Plan
from svc_dist.plan.quantised.decoded import decoded_models
from svc_dist.recipe.load import load_recipe
from tests.support.deepseek import Size, nbytes, tensors, write_headers

SMALL = Size(2, 1, 4, 256, 384, 128, 128, 64, 64, 4, 64, 300)


def test_the_list_of_tensors_is_the_published_one() -> None:
    entries = list(tensors())
    assert len(entries) == 91_991
    assert sum(nbytes(dtype, shape) for _, dtype, shape in entries) == 688_574_839_360


def test_every_weight_is_planned_once(tmp_path: Path) -> None:
    folders = [str(write_headers(tmp_path / f"m{number}", SMALL, shards=7)) for number in range(3)]
    files = json.loads((tmp_path / "m0" / "model.safetensors.index.json").read_text())["weight_map"]
    apart = [name for name in files if (scale := f"{name}_scale_inv") in files and files[scale] != files[name]]
    assert len(apart) >= 2
    recipe = {"base_model": folders[0], "models": [{"model": one} for one in folders[1:]], "merge_method": "linear"}
    plan = svc_dist.make_plan({**recipe, "quantization": "none"})
    weights = {name for name, dtype, _ in tensors(SMALL) if dtype != "F32" or "correction" in name}
    assert {tensor.name for tensor in plan.tensors} == weights
    planned = {tensor.name: tensor for tensor in plan.tensors}
    for name in apart:
        source = planned[name].sources[0]
        assert source is not None
        assert [part.file for part in source.parts] == [files[name], files[f"{name}_scale_inv"]]
    assert planned["model.layers.1.mlp.gate.e_score_correction_bias"].dtype == "F32"


def test_models_that_are_stored_alike_share_their_tensors_and_others_do_not(tmp_path: Path) -> None:
    folders = [write_headers(tmp_path / f"m{number}", SMALL, shards=7) for number in range(3)]
    other = json.loads((folders[2] / "config.json").read_text())
    other["quantization_config"]["scale_fmt"] = "ue8m0"
    (folders[2] / "config.json").write_text(json.dumps(other))
    models = [{"model": str(folder)} for folder in folders[1:]]
    text = {"base_model": str(folders[0]), "models": models, "merge_method": "linear", "quantization": "none"}
    (tmp_path / "r.yaml").write_text(json.dumps(text))
    recipe = load_recipe(tmp_path / "r.yaml")
    opened = [open_expert(str(folder)) for folder in folders]
    base, alike, powers = (one.tensors for one in decoded_models(recipe, opened))
    name = "model.layers.0.mlp.up_proj.weight"
    assert alike[name] is base[name]
    assert alike[name].codec != powers[name].codec
    assert alike[name].parts == powers[name].parts


@pytest.mark.slow
def test_the_whole_model_is_planned_to_the_byte(tmp_path: Path) -> None:
    models = [str(write_headers(tmp_path / f"m{number}")) for number in range(4)]
    experts = [{"model": model, "parameters": {"weight": 0.3}} for model in models[1:]]
    recipe = {"base_model": models[0], "models": experts, "merge_method": "task_arithmetic"}
    plan = svc_dist.make_plan({**recipe, "quantization": "none"})
    assert (len(plan.tensors), plan.tensor_bytes) == (46_183, 1_368_979_721_216)
    plan = svc_dist.make_plan({**recipe, "quantization": "base"})
    assert (len(plan.tensors), plan.tensor_bytes) == (46_183, 688_574_839_360)
    assert sum(len(tensor.written) for tensor in plan.tensors) == 91_991
    assert Plan.from_json(plan.to_json()) == plan
