"""Bytes of a file seen as a tensor: values by dtype, no copy, and nothing of a dtype that is no weight's."""

from __future__ import annotations

import struct

import pytest
import torch

from svc_dist.checkpoint.tensor_view import tensor_view


@pytest.mark.parametrize(
    ("dtype", "kind", "code"), [("F64", torch.float64, "d"), ("F32", torch.float32, "f"), ("F16", torch.float16, "e")]
)
def test_weights_are_seen_in_their_dtype(dtype: str, kind: torch.dtype, code: str) -> None:
    view = tensor_view(memoryview(struct.pack(f"<3{code}", 1.5, -0.25, 96.0)), dtype)
    assert view.dtype == kind
    assert view.tolist() == [1.5, -0.25, 96.0]


def test_bfloat16_is_the_upper_half_of_a_float32() -> None:
    view = tensor_view(memoryview(struct.pack("<f", -2.5)[2:]), "BF16")
    assert view.dtype == torch.bfloat16
    assert view.tolist() == [-2.5]


@pytest.mark.parametrize("dtype", ["I64", "BOOL", "F8_E4M3", "U8"])
def test_anything_else_is_bytes(dtype: str) -> None:
    view = tensor_view(memoryview(bytes(range(16))), dtype)
    assert view.dtype == torch.uint8
    assert view.tolist() == list(range(16))


def test_a_view_copies_nothing() -> None:
    data = bytearray(8)
    view = tensor_view(memoryview(data), "F32")
    data[4:] = struct.pack("<f", 7.0)
    assert view.tolist() == [0.0, 7.0]


def test_a_tensor_without_elements_keeps_its_dtype() -> None:
    assert tensor_view(memoryview(b""), "F16").dtype == torch.float16
    assert tensor_view(memoryview(b""), "I32").shape == (0,)
