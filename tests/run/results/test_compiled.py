"""A unit loads compiled loops where it will use them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import svc_dist
from svc_dist.run.results import compiled
from tests.support.checkpoints import recipe_data, write_checkpoint


@pytest.mark.parametrize(
    ("method", "keys", "sizes"),
    [
        ("ties", {}, [48, 8]),
        ("task_arithmetic", {"calibrate": "svc"}, [8]),  # of the matrix only the calibration asks
        ("tsv_m", {}, [8]),
        ("ties", {"rules": [{"match": "*.weight", "keep": "base"}]}, []),
    ],
)
def test_a_unit_loads_the_loops_that_it_will_use(
    method: str, keys: dict[str, Any], sizes: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    monkeypatch.setattr(compiled, "loops", asked.append)
    models = []
    for number in range(3):
        tensors = {"layers.0.mlp.weight": torch.full((6, 8), 1.0 + number), "layers.0.norm.weight": torch.ones(8)}
        half = {name: tensor.bfloat16() for name, tensor in tensors.items()}
        models.append(write_checkpoint(tmp_path / str(number), half | {"layers.0.half": torch.full((5,), 1.0).half()}))
    plan = svc_dist.make_plan(recipe_data(models, method, **keys))
    for unit in plan.units:
        compiled.load_loops(plan, unit)
    assert sorted(asked, reverse=True) == sizes
