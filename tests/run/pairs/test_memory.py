"""Units of adapters stay within the memory that the plan states (svc_dist.plan.adapters.costs)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import svc_dist
from svc_dist.run.unit import run_unit
from svc_dist.storage.reading import Source
from svc_dist.storage.writing.local import LocalSink
from tests.support.adapters import config, lora, write_adapter
from tests.support.checkpoints import recipe_data, write_checkpoint
from tests.support.peak_memory import CountedMemory

_NAME = "model.layers.0.mlp.up_proj"


@pytest.mark.parametrize(
    ("experts", "keys"),
    [
        pytest.param("models", {"rank": 64, "precision": "float64"}, marks=pytest.mark.slow),
        ("models", {"rank": 512, "dtype": "bfloat16"}),
        ("adapters", {"merge_method": "ties", "rank": 32}),
        ("adapters", {"outputs": [{"path": f"l{n}", "lambda": n / 4} for n in range(1, 4)]}),
    ],
    ids=str,
)
def test_a_unit_s_peak(tmp_path: Path, experts: str, keys: dict[str, Any]) -> None:
    shape = (1536, 1024)
    keys = dict(keys)
    precision = keys.pop("precision", "mixed")
    locations = [write_checkpoint(tmp_path / "base", {f"{_NAME}.weight": torch.randn(shape).bfloat16()})]
    for number in range(2):
        folder = tmp_path / f"expert{number}"
        if experts == "models":
            locations.append(write_checkpoint(folder, {f"{_NAME}.weight": torch.randn(shape).bfloat16()}))
        else:
            locations.append(write_adapter(folder, lora({_NAME: shape}, rank=96), config(96)))
    plan = svc_dist.make_plan(recipe_data(locations, output="adapter") | keys, precision=precision)
    (unit,) = plan.units
    sink = LocalSink(tmp_path / "out", tmp_path / "out" / "partial")
    sink.prepare(plan.shards)
    sources = [Source(model.location, model.files) for model in plan.inputs]
    run_unit(plan, unit, sources, sink)  # what libraries load once is not the unit's
    with CountedMemory() as memory:
        run_unit(plan, unit, sources, sink)
    assert memory.mib * 2**20 <= unit.memory
    assert unit.memory <= 12 * memory.mib * 2**20 + (64 << 20), "the figure keeps other units out for nothing"
