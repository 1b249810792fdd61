"""The largest eigenproblem follows from the CUDA that torch is built for."""

from __future__ import annotations

import pytest

from svc_dist.linalg.devices.limits import largest_eigenproblem


@pytest.mark.parametrize(
    ("build", "largest"),
    [
        ("2.11.0+cu118", 23_000), ("2.13.0+cu126", 23_000), ("2.13.0+cu128", 23_000), ("2.13.0+cu130", None),
        ("2.13.0+cpu", None), ("2.13.0", None), ("2.13.0+rocm6.4", None), ("", None),
    ],
)  # fmt: skip
def test_builds(build: str, largest: int | None) -> None:
    assert largest_eigenproblem(build) == largest
