"""A CUDA that cannot be used is described by driver, wheel and version."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from svc_dist.run.devices.cuda import torch_build, usable, why_unusable

DRIVER = """NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19 01:15:15 UTC 2023
GCC version:  gcc version 11.4.0 (Ubuntu 11.4.0-1ubuntu1~22.04)
"""
OPEN_DRIVER = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.86.15  Release Build\n"

needs_no_gpu = pytest.mark.skipif(torch.version.cuda is not None, reason="this torch is built for CUDA")


@needs_no_gpu
def test_a_build_for_the_cpu_is_named(tmp_path: Path) -> None:
    said = why_unusable(tmp_path / "version")
    assert said == f"torch {torch_build()} is built for the CPU only; no NVIDIA driver runs here"
    assert not usable()


@pytest.mark.parametrize(("text", "number"), [(DRIVER, "535.104.05"), (OPEN_DRIVER, "570.86.15")])
def test_the_driver_and_what_torch_says_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, number: str
) -> None:
    def too_old() -> None:
        raise RuntimeError("The NVIDIA driver on your system is too old (found version 12020).\nPlease update")

    (tmp_path / "version").write_text(text)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "init", too_old)
    said = why_unusable(tmp_path / "version")
    assert "is built for CUDA 13.0" in said
    assert f"the driver is {number}" in said
    assert said.endswith("The NVIDIA driver on your system is too old (found version 12020).")
