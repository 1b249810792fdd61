"""A run warns of matrices whose deltas are mostly what storage has rounded."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

import svc_dist
from svc_dist.run_folder.report import read_report
from tests.support.checkpoints import write_checkpoint, write_recipe

NAME = "layers.0.proj.weight"


def test_adapters_merged_into_bfloat16_are_cut_counted_and_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    generator = torch.Generator().manual_seed(0)
    base = (0.02 * torch.randn(64, 64, generator=generator)).bfloat16()
    models = [write_checkpoint(tmp_path / "base", {NAME: base})]
    for index in range(2):
        change = torch.randn(64, 4, generator=generator) @ torch.randn(4, 64, generator=generator) / 400
        models.append(write_checkpoint(tmp_path / f"expert{index}", {NAME: (base.float() + change).bfloat16()}))
    recipe = write_recipe(tmp_path / "recipe.yaml", models, "iso_c")
    with caplog.at_level(logging.WARNING, "svc_dist"):
        svc_dist.merge(recipe, tmp_path / "out", executor="inline")
    (summary,) = read_report(str(tmp_path / "out")).matrices
    assert (summary["kept_rank"], summary["cut_as_storage_rounding"]) == (8, 56)
    assert f"1 of 1 decomposed matrices ({NAME}, ...): most directions" in caplog.text
