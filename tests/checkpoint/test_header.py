"""Safetensors headers: nothing that the format forbids is believed, and what we write others read."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open

from svc_dist.checkpoint.dtype import ITEM_SIZE, byte_count
from svc_dist.checkpoint.header import DATA_ALIGNMENT, MAX_HEADER, header_length, parse_header, render_header
from svc_dist.errors import DamagedInputError
from tests.support.checkpoints import entry

NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=20).filter(lambda name: name != "__metadata__")
TENSORS = st.dictionaries(
    NAMES, st.tuples(st.sampled_from(sorted(ITEM_SIZE)), st.lists(st.integers(0, 5), max_size=3)), max_size=8
).map(lambda chosen: [(name, dtype, tuple(shape)) for name, (dtype, shape) in chosen.items()])
#: Dtypes that the safetensors library reads into numpy.
PLAIN = ["F64", "F32", "F16", "I64", "I32", "I16", "I8", "U8", "BOOL"]


def parse(header: dict[str, Any] | bytes, data: int) -> Any:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return parse_header(text, "shard", 8 + len(text) + data)


@given(TENSORS)
def test_what_is_rendered_is_parsed_again(tensors: list[tuple[str, str, tuple[int, ...]]]) -> None:
    header = render_header(tensors)
    size = len(header) + sum(byte_count(dtype, shape) or 0 for _, dtype, shape in tensors)
    assert header_length(header, "shard", size) == len(header) - 8
    specs = parse_header(header[8:], "shard", size)
    assert sorted((s.name, s.dtype, s.shape) for s in specs.values()) == sorted(tensors)


@given(TENSORS)
def test_data_begins_at_a_whole_page(tensors: list[tuple[str, str, tuple[int, ...]]]) -> None:
    assert len(render_header(tensors)) % DATA_ALIGNMENT == 0


@given(
    tensors=st.dictionaries(
        NAMES, st.tuples(st.sampled_from(PLAIN), st.lists(st.integers(0, 4), max_size=3)), min_size=1, max_size=5
    )
)
def test_the_safetensors_library_reads_our_headers(
    tensors: dict[str, tuple[str, list[int]]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = tmp_path_factory.getbasetemp() / "rendered.safetensors"
    header = render_header((name, dtype, shape) for name, (dtype, shape) in tensors.items())
    file.write_bytes(header + bytes(sum(byte_count(dtype, tuple(shape)) or 0 for dtype, shape in tensors.values())))
    with safe_open(file, framework="numpy") as opened:
        assert opened.metadata() == {"format": "pt"}
        slices = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118
        assert {name: (part.get_dtype(), part.get_shape()) for name, part in slices.items()} == tensors


def refused_unless_true(text: bytes, size: int) -> None:
    """Parse whatever it is: the specs tile the data exactly, or it is refused as damaged."""
    try:
        specs = parse_header(text, "shard", size)
    except DamagedInputError:
        return
    position = 8 + len(text)
    for spec in specs.values():
        assert spec.start == position
        assert spec.nbytes == byte_count(spec.dtype, spec.shape)
        position = spec.end
    assert position == size


@given(st.binary(max_size=200), st.integers(0, 300))
def test_arbitrary_bytes_are_damaged_not_a_crash(text: bytes, size: int) -> None:
    refused_unless_true(text, size)
    refused_unless_true(b"{" + text, size)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
NUMBERS = st.integers(-3, 40) | st.integers(2**62, 2**65) | JSON
ENTRIES = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "BF16", "U8", "F4", "nonsense"]) | JSON,
        "shape": st.lists(NUMBERS, max_size=3) | JSON,
        "data_offsets": st.lists(NUMBERS, max_size=3) | JSON,
    }
)


@given(st.dictionaries(st.text(max_size=5) | st.just("__metadata__"), ENTRIES | JSON, max_size=4), st.integers(0, 99))
def test_arbitrary_headers_are_damaged_not_a_crash(header: dict[str, Any], data: int) -> None:
    text = json.dumps(header).encode()
    refused_unless_true(text, 8 + len(text) + data)


@given(st.binary(max_size=12), st.integers(0, 20))
def test_an_arbitrary_prefix_is_a_length_inside_the_file_or_damaged(prefix: bytes, size: int) -> None:
    try:
        length = header_length(prefix, "shard", size)
    except DamagedInputError:
        return
    assert 0 <= length <= size - 8


def test_a_header_longer_than_the_format_allows_is_refused_before_it_is_read() -> None:
    with pytest.raises(DamagedInputError, match="exceeds the format's limit"):
        header_length(struct.pack("<Q", MAX_HEADER + 1), "shard", 2**40)


def test_a_header_that_reaches_past_the_end_is_refused() -> None:
    with pytest.raises(DamagedInputError, match=r"shard: header length 500 reaches past the end of the file \(100"):
        header_length(struct.pack("<Q", 500), "shard", 100)


F4 = entry("F32", [4], 0)
DAMAGED: dict[str, tuple[dict[str, Any] | bytes, int, str]] = {
    "not a header": (b"<html>", 0, "does not begin with"),
    "broken json": (b'{"a": ', 0, "not valid JSON"),
    "not utf-8": (b'{"\xff": 1}', 0, "not valid JSON"),
    "endless nesting": (b'{"a":' + b"[" * 100_000, 0, "not valid JSON"),
    "duplicate name": (
        b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}',
        2,
        "'a' stands there twice",
    ),
    "half a surrogate": (b'{"\\ud800":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}', 1, "not valid Unicode"),
    "metadata of numbers": ({"__metadata__": {"a": 1}}, 0, "__metadata__"),
    "a key too few": ({"a": {"dtype": "U8", "shape": [1]}}, 1, "exactly dtype, shape and data_offsets"),
    "a key too many": ({"a": entry("U8", [1], 0) | {"more": 1}}, 1, "exactly dtype, shape and data_offsets"),
    "unknown dtype": ({"a": entry("Q7", [1], 0, 1)}, 1, "'a' of shape .* unknown dtype 'Q7'"),
    "half a byte": ({"a": entry("F4", [3], 0, 2)}, 2, "'a' of shape .* unknown dtype 'F4'"),
    "negative size": ({"a": entry("U8", [-1], 0, 1)}, 1, "malformed dtype or shape"),
    "size true": ({"a": entry("U8", [True], 0, 1)}, 1, "malformed dtype or shape"),
    "size 1.0": ({"a": {"dtype": "U8", "shape": [1.0], "data_offsets": [0, 1]}}, 1, "malformed dtype or shape"),
    "astronomical": ({"a": entry("U8", [2**62] * 1000, 0, 1)}, 1, "'a' of dtype U8 has an impossible shape"),
    "offsets backwards": ({"a": entry("U8", [1], 5, 4)}, 5, "malformed data_offsets"),
    "one offset": ({"a": {"dtype": "U8", "shape": [1], "data_offsets": [0]}}, 1, "malformed data_offsets"),
    "wrong size for its dtype": ({"a": entry("F32", [4], 0, 8)}, 8, "'a' of dtype F32 and shape .* needs 16 bytes"),
    "overlap": ({"a": F4, "b": entry("F32", [4], 8)}, 24, "'b' at byte .* overlaps"),
    "the same bytes twice": ({"a": F4, "b": F4}, 16, "'b' at byte .* overlaps"),
    "hole": ({"a": F4, "b": entry("F32", [4], 20)}, 36, "'b' at byte .* leaves a hole"),
    "hole at the beginning": ({"a": entry("F32", [4], 4)}, 20, "'a' at byte .* leaves a hole"),
    "truncated": ({"a": F4}, 15, "truncated"),
    "bytes too many": ({"a": F4}, 17, "belong to no tensor"),
}


@pytest.mark.parametrize(("header", "data", "words"), DAMAGED.values(), ids=DAMAGED.keys())
def test_what_the_format_forbids_is_refused_by_name(header: dict[str, Any] | bytes, data: int, words: str) -> None:
    with pytest.raises(DamagedInputError, match=f"^shard: .*{words}"):
        parse(header, data)


def test_scalars_empty_tensors_and_any_order_are_legal() -> None:
    specs = parse({"b": entry("F32", [], 4), "e": entry("F32", [0, 3], 4), "a": entry("F32", [1], 0)}, 8)
    assert [spec.shape for spec in specs.values()] == [(1,), (0, 3), ()]
    assert [spec.numel for spec in specs.values()] == [1, 0, 1]


def test_names_of_any_script_survive(tmp_path: Path) -> None:
    header = render_header([("层.0.вес \"'\\\n", "U8", (1,))])
    (tmp_path / "a.safetensors").write_bytes(header + b"\0")
    with safe_open(tmp_path / "a.safetensors", framework="numpy") as opened:
        assert list(opened.keys()) == ["层.0.вес \"'\\\n"]
    assert list(parse_header(header[8:], "shard", len(header) + 1)) == ["层.0.вес \"'\\\n"]
