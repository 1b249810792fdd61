"""Files that public tools wrote: decoded to what those tools decode, encoded to the bytes that they wrote.

Covers these modules of svc_dist.checkpoint.formats.codecs: svc_dist.checkpoint.formats.codecs.codec,
svc_dist.checkpoint.formats.codecs.fp8_block, svc_dist.checkpoint.formats.codecs.fp8_scaled,
svc_dist.checkpoint.formats.codecs.mxfp, svc_dist.checkpoint.formats.codecs.nvfp4 and
svc_dist.checkpoint.formats.codecs.packed_integers.
Each file holds a checkpoint's tensors under their own names, what its tool decodes them to (``expect_f32.NAME``,
``expect_bf16.NAME``) and what it encoded (``source.NAME``); its metadata name the tools.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from svc_dist.checkpoint.formats.codecs import codec
from svc_dist.checkpoint.formats.codecs.codec import Codec
from svc_dist.checkpoint.formats.logical import LogicalTensor, logical_tensors
from svc_dist.checkpoint.header import TensorSpec, parse_header

FOLDER = Path(__file__).parents[3] / "vectors" / "formats"
FILES = sorted(file.name for file in FOLDER.glob("*.safetensors") if not file.name.startswith("tables"))
MADE = ("expect_", "source")
CROSSED = "fp8_block_crossshard_1of2.safetensors"


def read(file: str) -> tuple[dict[str, Tensor], dict[str, TensorSpec], dict[str, Any]]:
    """A file's tensors, the specs of those that a checkpoint would hold, and its config."""
    files = [file, CROSSED.replace("1of2", "2of2")] if file == CROSSED else [file]
    tensors: dict[str, Tensor] = {}
    specs: dict[str, TensorSpec] = {}
    config: dict[str, Any] = {}
    for name in files:
        data = (FOLDER / name).read_bytes()
        length = int.from_bytes(data[:8], "little")
        held = parse_header(data[8 : 8 + length], name, len(data))
        specs |= {key: spec for key, spec in held.items() if not key.startswith(MADE)}
        tensors |= load_file(FOLDER / name)
        with safe_open(FOLDER / name, "pt") as opened:
            config = {"quantization_config": json.loads(opened.metadata()["quantization_config"])}
    return tensors, specs, config


def shape_in(tensors: Mapping[str, Tensor]) -> Any:
    return lambda spec: tuple(tensors[spec.name].tolist())


def matrices(one: LogicalTensor, tensors: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
    """The parts of each matrix, as the codec takes them."""
    stored = {suffix: tensors[spec.name] for suffix, spec in one.parts}
    if len(one.shape) == 2:
        return [stored]
    return [{suffix: tensor[n] for suffix, tensor in stored.items()} for n in range(one.count)]


def bits(tensor: Tensor) -> Tensor:
    return tensor.contiguous().view({1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.itemsize])


def same(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and one.shape == other.shape and torch.equal(bits(one), bits(other))


def decoded(one: LogicalTensor, tensors: Mapping[str, Tensor]) -> Tensor:
    """The whole weight as its codec gives it: gpt-oss's as ``(experts, out, in)``."""
    each = [one.codec.decode(parts) for parts in matrices(one, tensors)]
    return torch.stack(each) if len(one.shape) == 3 else each[0]


def expected(name: str, one: LogicalTensor, tensors: Mapping[str, Tensor]) -> Tensor:
    return tensors[f"expect_f32_out_in.{name}" if one.codec.turned else f"expect_f32.{name}"]


@pytest.mark.parametrize("file", [file for file in FILES if "2of2" not in file])
def test_every_weight_is_decoded_bit_for_bit(file: str) -> None:
    tensors, specs, config = read(file)
    found = logical_tensors(specs, config, shape_of=shape_in(tensors))
    wanted = {name.partition(".")[2] for name in tensors if name.startswith("expect_f32")}
    assert set(found) == wanted
    for name, one in found.items():
        weight, right = decoded(one, tensors), expected(name, one, tensors)
        if one.codec.turned:
            assert one.shape == (right.shape[0], right.shape[2], right.shape[1])
        else:
            assert one.shape == right.shape
        if file == "nvfp4_modelopt.safetensors":  # its reader gives +0.0 for the code of -0.0
            weight, right = weight + 0.0, right + 0.0
        assert same(weight, right)
        if f"expect_bf16.{name}" in tensors:
            assert same(weight.bfloat16(), tensors[f"expect_bf16.{name}"])


def rows_of(of: Codec, parts: Mapping[str, Tensor], first: int, last: int) -> dict[str, Tensor]:
    """The stored rows of each part that hold rows ``[first, last)`` of a matrix."""
    return {
        part.suffix: parts[part.suffix][slice(*part.range(first, last))] if part.shape else parts[part.suffix]
        for part in of.parts
    }


@pytest.mark.parametrize("file", FILES)
def test_every_slab_is_decoded_as_in_the_whole(file: str) -> None:
    tensors, specs, config = read(file)
    for one in logical_tensors(specs, config, shape_of=shape_in(tensors)).values():
        parts = matrices(one, tensors)[0]
        whole, rows = one.codec.decode(parts), one.codec.shape[0]
        for first in range(0, rows, one.codec.grain):
            last = min(first + one.codec.grain, rows)
            assert same(one.codec.decode(rows_of(one.codec, parts, first, last)), whole[first:last])


@pytest.mark.parametrize("file", FILES)
def test_rows_that_begin_no_block_are_decoded_as_in_the_whole(file: str) -> None:
    tensors, specs, config = read(file)
    for one in logical_tensors(specs, config, shape_of=shape_in(tensors)).values():
        parts = matrices(one, tensors)[0]
        whole, rows = one.codec.decode(parts), one.codec.shape[0]
        for first, last in ((1, rows), (rows // 2, rows // 2 + 1), (rows - 1, rows), (rows // 3, rows)):
            if last > first < rows:
                piece = rows_of(one.codec, parts, first, last)
                assert same(one.codec.decode(piece, first % one.codec.grain), whole[first:last])


@pytest.mark.parametrize("file", FILES)
def test_pieces_and_other_strides_are_encoded_as_the_whole(file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors, specs, config = read(file)
    for one in logical_tensors(specs, config, shape_of=shape_in(tensors)).values():
        parts = matrices(one, tensors)[0]
        above = {suffix: parts[suffix] for suffix in one.codec.of_the_whole}
        weight = one.codec.decode(parts)
        whole = one.codec.encode(weight, above)
        with monkeypatch.context() as patch:
            patch.setattr(codec, "AT_ONCE", 3 * one.codec.shape[1])
            for other in (weight, weight.T.contiguous().T):
                again = one.codec.encode(other, above)
                assert {suffix for suffix in whole if not same(again[suffix], whole[suffix])} == set()
            strided = {suffix: torch.stack((part, part), -1)[..., 0] for suffix, part in parts.items()}
            assert same(one.codec.decode(strided), weight)


@pytest.mark.parametrize("file", FILES)
def test_what_a_tool_encoded_becomes_the_bytes_that_it_wrote(file: str) -> None:
    tensors, specs, config = read(file)
    found = logical_tensors(specs, config, shape_of=shape_in(tensors))
    for name, one in found.items():
        key = f"source_in_out.{name}" if one.codec.turned else f"source.{name}"
        if key not in tensors:
            continue
        source = tensors[key].transpose(1, 2) if one.codec.turned else tensors[key]
        each = source.contiguous() if len(source.shape) == 3 else source.unsqueeze(0)
        for weight, parts in zip(each, matrices(one, tensors), strict=True):
            encoded = one.codec.encode(weight, of_the_whole(file, name, one, tensors, parts))
            assert set(encoded) == set(parts)
            assert {suffix for suffix in parts if not same(encoded[suffix], parts[suffix])} == set()


def of_the_whole(
    file: str, name: str, one: LogicalTensor, tensors: Mapping[str, Tensor], parts: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The parts for the whole matrix: of all matrices that share an upper scale."""
    if not one.codec.of_the_whole:
        return {}
    if file == "nvfp4_ct_k_bf16.safetensors":  # shared with two that are not in the file
        return {suffix: parts[suffix] for suffix in one.codec.of_the_whole}
    shared = [name]
    if one.codec.rule == "compressed-tensors" and "self_attn" in name:
        shared = [key.removeprefix("source.") for key in tensors if key.startswith("source.") and "self_attn" in key]
    largest = torch.stack([tensors[f"source.{key}"].float().abs().max() for key in shared]).max()
    return one.codec.whole(largest, tensors[f"source.{name}"].dtype)


@pytest.mark.parametrize("file", [file for file in FILES if not file.startswith("int")])
def test_encoding_what_was_decoded_keeps_its_values(file: str) -> None:
    """Not so for packed integers by their tools' rule, which divides by half a code more than there is."""
    tensors, specs, config = read(file)
    for one in logical_tensors(specs, config, shape_of=shape_in(tensors)).values():
        for parts in matrices(one, tensors):
            weight = one.codec.decode(parts)
            again = one.codec.encode(weight, {suffix: parts[suffix] for suffix in one.codec.of_the_whole})
            if one.codec.rule == "openai" and "scale_bytes" in file:
                continue  # scales far below those that the rule would choose
            assert torch.equal(one.codec.decode(again), weight)
