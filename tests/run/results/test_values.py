"""Values that are not finite: those that are the same in every input pass through, those that differ are refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import svc_dist
from svc_dist.errors import DamagedInputError, UnitsFailedError
from tests.support.checkpoints import recipe_data, write_checkpoint

INF, NAN = float("inf"), float("nan")
BUFFERS = {
    "gpt_neox.layers.0.attention.masked_bias": torch.tensor(-INF),
    "layers.0.causal_mask": torch.full((4, 4), -INF).triu(1),
    "layers.0.mixed": torch.tensor([NAN, INF, -INF, 1.0, -0.0]),
    "layers.0.table.weight": torch.tensor([[1.0, NAN], [2.0, INF]]),
    "layers.0.half": torch.tensor([-INF, 2.0]).half(),
}


def models(folder: Path, changed: dict[str, Tensor] | None = None) -> list[Path]:
    made = []
    for number, name in enumerate(("base", "a", "b")):
        weight = {"layers.0.dense.weight": torch.randn(8, 8, generator=torch.Generator().manual_seed(number))}
        buffers = BUFFERS | ((changed or {}) if name == "b" else {})
        made.append(write_checkpoint(folder / name, weight | buffers))
    return made


@pytest.mark.parametrize(
    "method", ["task_arithmetic", "linear", "ties", "della", "sce", "model_stock", "swudi", "tsv_m"]
)
def test_values_that_are_the_same_in_every_input_pass_through(tmp_path: Path, method: str) -> None:
    svc_dist.merge(recipe_data(models(tmp_path), method, calibrate="svc"), tmp_path / "out", executor="inline")
    merged = load_file(tmp_path / "out/model.safetensors")
    for name, buffer in BUFFERS.items():
        assert merged[name].dtype == buffer.dtype
        assert bytes(merged[name].numpy().tobytes()) == buffer.numpy().tobytes(), name


@pytest.mark.parametrize(
    "changed",
    [
        {"layers.0.causal_mask": torch.full((4, 4), -INF).triu(2)},
        {"layers.0.mixed": torch.tensor([NAN, INF, -INF, 1.5, -0.0])},
        {"gpt_neox.layers.0.attention.masked_bias": torch.tensor(-1e9)},
    ],
)
def test_values_that_differ_are_refused(tmp_path: Path, changed: dict[str, Tensor]) -> None:
    with pytest.raises((DamagedInputError, UnitsFailedError), match=next(iter(changed))):
        svc_dist.merge(recipe_data(models(tmp_path, changed)), tmp_path / "out", executor="inline")
