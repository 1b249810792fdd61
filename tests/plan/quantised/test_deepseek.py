"""DeepSeek-V3, planned from headers of its names and files: weights and scales that lie in different shards."""

from __future__ import annotations

import json
from pathlib import Path

import svc_dist
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
