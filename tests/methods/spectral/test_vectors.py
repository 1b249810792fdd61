"""The spectral methods, and SVC on any method, against vectors computed in float64 from their formulas."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from svc_dist.methods.apply import elementwise_matrix
from svc_dist.methods.deltas import TaskDeltas
from svc_dist.methods.merged import Merged
from svc_dist.methods.registry import METHODS
from tests.support.elementwise_references import parameters
from tests.support.spectral_cases import SPECTRAL, error, run, svc

VECTORS = sorted((Path(__file__).parents[3] / "tests" / "vectors").glob("*.safetensors"))
LIFTED = ("tsv_m", "iso_c", "iso_cts")  # small directions count as much as large ones: agreement within 1e-7
NAMES = {"average": "linear"}
BESIDE = ("gamma", "sigma")


def entries() -> list[Any]:
    found = []
    for path in VECTORS:
        for key in load_file(path):
            name = key.split("|")[0]
            spectral = METHODS[name].family == "spectral" if name in METHODS else name == "svc"
            if spectral and key.split("|")[-1] not in BESIDE:
                found.append(pytest.param(path, key, id=f"{path.stem}-{key}"))
    return found


def parsed(key: str) -> tuple[str, dict[str, Any]]:
    name, *given = key.split("|")
    pairs = dict(item.split("=", 1) for item in given)
    return name, {key: float(value) if value[0].isdigit() else value for key, value in pairs.items()}


def merged(name: str, deltas: TaskDeltas, given: dict[str, Any]) -> Merged:
    name = NAMES.get(name, name)
    if METHODS[name].family == "spectral":
        return run(name, deltas, **given)
    return Merged(elementwise_matrix(deltas, METHODS[name], parameters(name, len(deltas), **given)))


@pytest.mark.parametrize("precision", ["float64", "mixed", "fast"])
@pytest.mark.parametrize(("path", "key"), entries())
def test_agrees_with_the_vectors(path: Path, key: str, precision: str) -> None:
    tensors = load_file(path)
    experts = [tensors[f"delta.{index}"] for index in range(len(tensors)) if f"delta.{index}" in tensors]
    deltas = TaskDeltas(experts, precision=precision)
    name, given = parsed(key)
    tolerance = {"float64": 1e-7 if any(part in key for part in LIFTED) else 1e-10, "mixed": 5e-5, "fast": 2e-3}[
        precision
    ]
    if name != "svc":
        assert error(merged(name, deltas, given).delta, tensors[key]) <= tolerance
        return
    alpha = given.pop("alpha")
    result = svc(merged(given.pop("of"), deltas, given), deltas, alpha=alpha)
    assert error(result.delta, tensors[key]) <= tolerance
    if f"{key}|sigma" in tensors:
        sigma, gamma = tensors[f"{key}|sigma"], tensors[f"{key}|gamma"]
        resolved = sigma > 1e-5 * sigma.max()  # of directions at rounding level nothing can be said
        assert error(result.sigma, sigma) <= tolerance
        assert error(result.gamma[resolved], gamma[resolved]) <= 10 * tolerance


def test_there_are_vectors_of_every_spectral_method() -> None:
    covered = {param.values[1].split("|")[0] for param in entries()}
    assert covered == {*SPECTRAL, "svc"}


def test_inputs_are_never_written_to() -> None:
    tensors = load_file(VECTORS[0])
    experts = [tensors[f"delta.{index}"].float() for index in range(len(tensors)) if f"delta.{index}" in tensors]
    before = [expert.clone() for expert in experts]
    for name in sorted({param.values[1].split("|")[0] for param in entries()} - {"svc"}):
        deltas = TaskDeltas(experts)
        svc(run(name, deltas), deltas)
    assert all(torch.equal(left, right) for left, right in zip(before, experts, strict=True))
