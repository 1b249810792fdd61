"""Codes that stand for no number are found, and named by weight and element."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

import svc_dist
from svc_dist.checks.verify import verify
from tests.plan.quantised.test_decoded import models, recipe


def test_a_code_that_is_no_number_is_found(tmp_path: Path) -> None:
    names, _ = models(tmp_path, "fp8 blocks", [None])
    svc_dist.merge(recipe(names), tmp_path / "out", executor="inline")
    file = tmp_path / "out/model.safetensors"
    tensors = load_file(file)
    tensors["model.layers.0.self_attn.q_proj.weight"].view(torch.uint8)[3, 5] = 0x7F
    save_file(tensors, file, {"format": "pt"})
    problems = verify(str(tmp_path / "out"), deep=True).problems
    assert any("q_proj.weight' holds nan at element 197" in problem for problem in problems)
