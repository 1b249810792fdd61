"""An expert that changes nothing is named after the merge: only the data tells, not the headers."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

import svc_dist
from tests.support.adapters import llama_modules, lora, write_adapter
from tests.support.checkpoints import llama_like, write_checkpoint, write_recipe


@pytest.mark.parametrize("trained", [True, False])
def test_an_adapter_that_was_never_trained(trained: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pairs = lora(llama_modules())
    if not trained:
        pairs = {name: torch.zeros_like(tensor) if "lora_B" in name else tensor for name, tensor in pairs.items()}
    models = [write_checkpoint(tmp_path / f"m{seed}", llama_like(seed)) for seed in range(2)]
    models.append(write_adapter(tmp_path / "a", pairs))
    with caplog.at_level(logging.WARNING, "svc_dist"):
        svc_dist.merge(write_recipe(tmp_path / "r.yaml", models), tmp_path / "out")
    warned = [record.getMessage() for record in caplog.records if "added nothing" in record.getMessage()]
    assert [warning.split(" ")[0] for warning in warned] == ([] if trained else [f"{tmp_path}/a"])
