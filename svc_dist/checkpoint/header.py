"""The header of one safetensors file: parsing that checks everything, and rendering.

A file is 8 bytes (little-endian length N), N bytes of JSON, then the data, to whose start the offsets in the JSON are
relative. See https://github.com/huggingface/safetensors#format.
"""

from __future__ import annotations

import json
import math
import struct
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec

from svc_dist.checkpoint.dtype import byte_count
from svc_dist.checkpoint.placeholder import refuse_placeholder
from svc_dist.errors import DamagedInputError

MAX_HEADER = 100_000_000
#: Data in the shards of a merge begins at a multiple of this, so that neighbouring ranges seldom share a page.
DATA_ALIGNMENT = 4096


class TensorSpec(msgspec.Struct, frozen=True, gc=False):
    """The bytes ``[start, end)`` of one tensor in ``file``.

    ``parts``: the tensors that make up this one, in the order of its bytes, where it is not stored whole; ``start`` and
    ``end`` are then relative to it. ``codec``: how they store it, where they are its codes and their companions, in the
    codec's order (``formats.codecs.texts``).
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: str
    start: int
    end: int
    parts: tuple[TensorSpec, ...] = ()
    codec: str | None = None

    @property
    def nbytes(self) -> int:
        return self.end - self.start

    @property
    def numel(self) -> int:
        return math.prod(self.shape)


def header_length(prefix: bytes, file: str, file_size: int) -> int:
    """Bytes of JSON after the 8-byte prefix. Raises DamagedInputError for an impossible length."""
    if file_size < 8 or len(prefix) < 8:
        raise DamagedInputError(
            f"{file}: only {file_size} bytes, too short for a safetensors file", "download or save it again"
        )
    length = int(struct.unpack("<Q", prefix[:8])[0])
    if length > MAX_HEADER:
        raise DamagedInputError(f"{file}: header length {length:,} exceeds the format's limit of {MAX_HEADER:,} bytes")
    if 8 + length > file_size:
        raise DamagedInputError(
            f"{file}: header length {length:,} reaches past the end of the file ({file_size:,} bytes)",
            "the file is truncated or not safetensors; download or save it again",
        )
    return length


def unique_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """For ``json.loads``: an object as a dict. Raises ValueError for a duplicate name."""
    result = dict(pairs)
    if len(result) < len(pairs):
        counts = Counter(name for name, _ in pairs)
        raise ValueError(f"the name {max(counts, key=counts.__getitem__)!r} stands there twice")
    return result


def json_object(text: bytes, where: str, hook: Callable[[list[tuple[str, Any]]], Any] | None = None) -> dict[str, Any]:
    """A file's JSON object; ``hook``: as in ``json.loads``. Raises DamagedInputError for anything else."""
    try:
        data = json.loads(text, object_pairs_hook=hook)
    except (ValueError, RecursionError) as error:
        refuse_placeholder(text, where)
        raise DamagedInputError(f"{where}: not valid JSON: {error}") from None
    if not isinstance(data, dict):
        raise DamagedInputError(f"{where}: not a JSON object")
    return data


def parse_header(text: bytes, file: str, file_size: int) -> dict[str, TensorSpec]:
    """The tensor specs of one file from its JSON header (without the prefix), in order of their bytes.

    Raises DamagedInputError for anything that the format does not allow: bad JSON, duplicate names, unknown dtypes,
    sizes that contradict dtype and shape, holes, overlaps, offsets outside the file.
    """
    return _plain_header(text, file, file_size) or _checked_header(text, file, file_size)


class _Entry(msgspec.Struct, gc=False):
    """What a header says of a tensor. The defaults stand for what is missing."""

    dtype: str = ""
    shape: tuple[int, ...] | None = None
    data_offsets: tuple[int, int] | None = None


class _Metadata(msgspec.Struct):
    values: dict[str, str] = msgspec.field(default_factory=dict, name="__metadata__")


# Made once, by the thread that imports this: msgspec crashes where several threads decode a type for the first time.
_ENTRIES = msgspec.json.Decoder(dict[str, _Entry])
_METADATA = msgspec.json.Decoder(_Metadata)


def _plain_header(text: bytes, file: str, file_size: int) -> dict[str, TensorSpec] | None:
    """The specs of a header without fault and without escapes, quickly; None for any other, which may be right too."""
    if b"\\" in text:
        return None
    try:
        entries, metadata = _ENTRIES.decode(text), _METADATA.decode(text).values
    except (ValueError, RecursionError):
        return None
    quotes = 2 + 4 * len(metadata) if entries.pop("__metadata__", None) is not None else 0
    if text.count(b'"') != quotes + 10 * len(entries):  # duplicate names, or keys that do not belong here
        return None
    known: dict[tuple[str, tuple[int, ...]], tuple[str, tuple[int, ...], int]] = {}
    specs: dict[str, TensorSpec] = {}
    position, data_start = 0, 8 + len(text)
    for name, entry in sorted(entries.items(), key=lambda item: item[1].data_offsets or (0, 0)):
        if entry.shape is None or entry.data_offsets is None:
            return None
        kind = known.get((entry.dtype, entry.shape))
        if kind is None:
            size = byte_count(entry.dtype, entry.shape)
            if size is None or size >= 2**63 or not all(0 <= length < 2**63 for length in entry.shape):
                return None
            kind = known[entry.dtype, entry.shape] = (entry.dtype, entry.shape, size)
        dtype, shape, size = kind  # one object for all that are equal
        start, end = entry.data_offsets
        if start != position or end - start != size:
            return None
        position = end
        specs[name] = TensorSpec(name, dtype, shape, file, data_start + start, data_start + end)
    return specs if data_start + position == file_size else None


def _checked_header(text: bytes, file: str, file_size: int) -> dict[str, TensorSpec]:
    """The specs of any header, with the reason where it is refused."""
    if not text.startswith(b"{"):
        raise DamagedInputError(f"{file}: the header does not begin with '{{'", "this is not a safetensors file")
    try:
        parsed = json.loads(text.decode("utf-8"), object_pairs_hook=unique_names)
    except (ValueError, RecursionError) as error:
        raise DamagedInputError(f"{file}: the header is not valid JSON: {error}") from None
    metadata = parsed.pop("__metadata__", None)
    if not isinstance(metadata, dict | None) or not all(isinstance(value, str) for value in (metadata or {}).values()):
        raise DamagedInputError(f"{file}: __metadata__ does not map strings to strings")
    data_start = 8 + len(text)
    specs = [_spec(name, entry, file, data_start) for name, entry in parsed.items()]
    specs.sort(key=lambda spec: (spec.start, spec.end))
    position = data_start
    for spec in specs:
        if spec.start != position:
            what = "overlaps the tensor before it" if spec.start < position else "leaves a hole before it"
            raise DamagedInputError(
                f"{file}: tensor {spec.name!r} at byte {spec.start:,} {what} (expected {position:,})"
            )
        position = spec.end
    if position != file_size:
        what = "truncated" if position > file_size else "followed by bytes that belong to no tensor"
        raise DamagedInputError(
            f"{file}: the data is {what}: the header describes {position:,} bytes, the file has {file_size:,}",
            "download or save it again",
        )
    return {spec.name: spec for spec in specs}


def _spec(name: str, entry: Any, file: str, data_start: int) -> TensorSpec:
    def whole(value: Any) -> bool:
        return type(value) is int and 0 <= value < 2**63

    if any("\ud800" <= letter <= "\udfff" for letter in name):
        raise DamagedInputError(f"{file}: the tensor name {name!r} is not valid Unicode")
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise DamagedInputError(f"{file}: tensor {name!r} must have exactly dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or not isinstance(shape, list) or not all(map(whole, shape)):
        raise DamagedInputError(f"{file}: tensor {name!r} has a malformed dtype or shape")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(map(whole, offsets)) or offsets[0] > offsets[1]:
        raise DamagedInputError(f"{file}: tensor {name!r} has malformed data_offsets {offsets!r}")
    size = byte_count(dtype, tuple(shape))
    if size is None:
        raise DamagedInputError(f"{file}: tensor {name!r} of shape {shape} has the unknown dtype {dtype!r}")
    if size >= 2**63:
        raise DamagedInputError(f"{file}: tensor {name!r} of dtype {dtype} has an impossible shape")
    if size != offsets[1] - offsets[0]:
        raise DamagedInputError(
            f"{file}: tensor {name!r} of dtype {dtype} and shape {shape} needs {size:,} bytes, "
            f"its offsets hold {offsets[1] - offsets[0]:,}"
        )
    return TensorSpec(name, dtype, tuple(shape), file, data_start + offsets[0], data_start + offsets[1])


def render_header(tensors: Iterable[tuple[str, str, Sequence[int]]]) -> bytes:
    """Prefix and header of a file with these (name, dtype, shape) in order and without holes.

    Spaces pad it to a multiple of ``DATA_ALIGNMENT`` bytes.
    """
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    position = 0
    for name, dtype, shape in tensors:
        size = byte_count(dtype, tuple(shape))
        if size is None:
            raise ValueError(f"tensor {name!r}: dtype {dtype} has no size")
        entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": (position, position + size)}
        position += size
    text = msgspec.json.encode(entries)
    text += b" " * (-(8 + len(text)) % DATA_ALIGNMENT)
    return struct.pack("<Q", len(text)) + text
