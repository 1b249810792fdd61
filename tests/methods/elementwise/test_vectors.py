"""The element-wise methods against vectors that were computed in float64 from their formulas."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from svc_dist.methods.deltas import TaskDeltas
from tests.support.elementwise_references import merged

VECTORS = sorted((Path(__file__).parents[3] / "tests" / "vectors").glob("*.safetensors"))
ENTRIES = {
    "average": ("linear", {"base_weight": 0.0}),
    "task_arithmetic|weight=0.3": ("task_arithmetic", {"weight": 0.3}),
    "ties|density=0.2": ("ties", {"density": 0.2}),
    "model_stock": ("model_stock", {}),
}


@pytest.mark.parametrize("path", VECTORS, ids=lambda path: path.stem)
@pytest.mark.parametrize(("precision", "tolerance"), [("float64", 1e-10), ("mixed", 5e-5), ("fast", 2e-3)])
@pytest.mark.parametrize("entry", ENTRIES)
def test_agrees_with_the_vectors(path: Path, entry: str, precision: str, tolerance: float) -> None:
    tensors = load_file(path)
    if entry not in tensors:
        pytest.skip("this case has no such entry")
    deltas = TaskDeltas(
        [tensors[f"delta.{i}"] for i in range(len(tensors)) if f"delta.{i}" in tensors], precision=precision
    )
    name, parameters = ENTRIES[entry]
    result, expected = merged(name, deltas, **parameters).double(), tensors[entry]
    assert torch.linalg.norm(result - expected) <= tolerance * torch.linalg.norm(expected)
