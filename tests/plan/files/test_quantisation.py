"""A config that says quantised over tensors that are not is mended; codes that it does not name get a warning."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import svc_dist
from svc_dist.checks.verify import verify
from svc_dist.cli.texts import plan_lines
from tests.support.checkpoints import llama_config, llama_like, recipe_data, write_checkpoint

FP8 = {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128]}
PLACES: dict[str, dict[str, Any]] = {
    "quantization_config": {"quantization_config": FP8},
    "text_config.quantization_config": {"text_config": {"quantization_config": FP8, "hidden_size": 16}},
    "compression_config": {"compression_config": {"format": "float-quantized"}},
    "quantization": {"quantization": {"bits": 4, "group_size": 64}},
}


def models(folder: Path, config: dict[str, Any]) -> list[Path]:
    return [write_checkpoint(folder / name, llama_like(n), config=config) for n, name in enumerate(("base", "one"))]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("dtype", [{}, {"dtype": "float32"}])
def test_a_config_that_contradicts_the_tensors_is_written_without_it(
    tmp_path: Path, place: str, dtype: dict[str, str]
) -> None:
    recipe = recipe_data(models(tmp_path, llama_config(**PLACES[place])), **dtype)
    plan = svc_dist.make_plan(recipe)
    (warning,) = [warning for warning in plan.warnings if "quantised" in warning]
    assert f"config.json: {place}" in warning
    assert any("config.json" in line and "without quantization_config" in line for line in plan_lines(plan))
    svc_dist.merge(recipe, tmp_path / "out", executor="inline")
    written = json.loads((tmp_path / "out/config.json").read_text())
    expected = llama_config(**({"text_config": {"hidden_size": 16}} if place.startswith("text") else {}))
    assert written == expected | ({"torch_dtype": "float32"} if dtype else {})
    assert not verify(str(tmp_path / "out")).problems


def test_files_that_say_quantised_are_not_copied_either(tmp_path: Path) -> None:
    found = models(tmp_path, llama_config())
    (found[0] / "hf_quant_config.json").write_text(json.dumps({"quantization": {"quant_algo": "FP8"}}))
    plan = svc_dist.make_plan(recipe_data(found))
    assert ("hf_quant_config.json", "the merged model is not quantised") in {(f.name, f.reason) for f in plan.left_out}
    assert any("hf_quant_config.json" in warning for warning in plan.warnings)


def test_codes_that_are_kept_keep_their_config(tmp_path: Path) -> None:
    codes = {"a.weight": torch.ones(4, 4, dtype=torch.int8), "a.weight_scale": torch.ones(4, 1)}
    tensors = [llama_like(n) | codes for n in range(2)]
    config = llama_config(quantization_config={"quant_method": "compressed-tensors"})
    found = [write_checkpoint(tmp_path / str(n), one, config=config) for n, one in enumerate(tensors)]
    keep = [{"match": ["a.weight", "a.weight_scale"], "keep": "base"}]
    plan = svc_dist.make_plan(recipe_data(found, rules=keep))
    assert not [warning for warning in plan.warnings if "quantised" in warning]
    assert not any(sidecar.dequantised for sidecar in plan.sidecars)
    (found[0] / "config.json").write_text(json.dumps(llama_config()))
    (warning,) = [w for w in svc_dist.make_plan(recipe_data(found, rules=keep)).warnings if "quantised" in w]
    assert "1 tensor like a.weight" in warning
    assert "does not say so" in warning


def test_ordinary_models_are_not_spoken_of(tmp_path: Path) -> None:
    plan = svc_dist.make_plan(recipe_data(models(tmp_path, llama_config())))
    assert not plan.warnings
