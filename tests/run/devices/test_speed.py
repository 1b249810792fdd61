"""A device measures itself; one that fails while it does says so."""

from __future__ import annotations

import pytest
import torch

from svc_dist.run.devices.speed import measured_speed


def test_the_speed_of_this_cpu() -> None:
    assert 1e8 < (measured_speed("cpu") or 0) < 1e13


def test_a_device_that_fails_is_not_taken_for_one_that_cannot_be_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: object) -> None:
        raise RuntimeError("CUDA error: uncorrectable ECC error encountered")

    monkeypatch.setattr(torch.linalg, "eigh", failing)
    with pytest.raises(RuntimeError, match="ECC"):
        measured_speed("cpu")


def test_without_a_device_there_is_no_speed() -> None:
    if not torch.cuda.is_available():
        assert measured_speed("cuda") is None
