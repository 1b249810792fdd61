"""Kimi-K2.5, planned from headers of its names and files: packed integers, with scales and shapes beside them."""

from __future__ import annotations

from pathlib import Path

import pytest

import svc_dist
from svc_dist.plan.model import Plan
from tests.support.deepseek import nbytes
from tests.support.kimi import Size, tensors, write_headers

SMALL = Size(3, 1, 4, 256, 384, 128, 128, 64, 64, 4, 64, 300, 1, 64, 96)
TEXT = "language_model."


def planned(folder: Path, size: Size, shards: int, quantization: str) -> Plan:
    models = [str(write_headers(folder / f"m{number}", size, shards)) for number in range(3)]
    experts = [{"model": model, "parameters": {"weight": 0.5}} for model in models[1:]]
    recipe = {"base_model": models[0], "models": experts, "merge_method": "task_arithmetic"}
    return svc_dist.make_plan({**recipe, "quantization": quantization})


def decoded_bytes(size: Size) -> int:
    """The bytes of all tensors where codes are written as bfloat16."""
    total = 0
    for name, dtype, shape in tensors(size):
        if name.endswith(".weight_packed"):
            total += 8 * 2 * shape[0] * shape[1]
        elif not name.endswith((".weight_scale", ".weight_shape")):
            total += nbytes(dtype, shape)
    return total


def test_the_list_of_tensors_is_the_published_one() -> None:
    entries = list(tensors())
    text = [nbytes(dtype, shape) for name, dtype, shape in entries if name.startswith(TEXT)]
    assert len(entries) == 208_550
    assert (len(text), sum(text)) == (208_215, 594_205_904_896)


def test_every_weight_is_planned_once(tmp_path: Path) -> None:
    plan = planned(tmp_path, SMALL, 5, "none")
    names = {name.replace(".weight_packed", ".weight") for name, _, _ in tensors(SMALL)}
    assert {tensor.name for tensor in plan.tensors} == {name for name in names if ".weight_s" not in name}
    assert plan.tensor_bytes == decoded_bytes(SMALL)
    in_codes = planned(tmp_path, SMALL, 5, "base")
    assert in_codes.tensor_bytes == sum(nbytes(dtype, shape) for _, dtype, shape in tensors(SMALL))


@pytest.mark.slow
def test_the_whole_model_is_planned_to_the_byte(tmp_path: Path) -> None:
    plan = planned(tmp_path, Size(), 64, "base")
    assert len(plan.tensors) == 70_310
    assert sum(len(tensor.written) for tensor in plan.tensors) == 208_550
    text = [tensor for tensor in plan.tensors if tensor.name.startswith(TEXT)]
    assert sum(tensor.end - tensor.start for tensor in text) == 594_205_904_896
    assert planned(tmp_path, Size(), 64, "none").tensor_bytes == decoded_bytes(Size())
