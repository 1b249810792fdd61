"""Logical tensors: a quantised weight and its companions as the one weight that they store."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import msgspec

from svc_dist.checkpoint.dtype import bytes_of
from svc_dist.checkpoint.formats.base import Format, Stored
from svc_dist.checkpoint.formats.codecs.codec import Codec
from svc_dist.checkpoint.formats.codecs.packed_integers import PackedIntegers
from svc_dist.checkpoint.formats.codecs.texts import codec_text, shared
from svc_dist.checkpoint.formats.scheme import Schemes, quantisation_config
from svc_dist.checkpoint.formats.table import quantised_tensors
from svc_dist.checkpoint.formats.written import WEIGHT_OF
from svc_dist.checkpoint.header import TensorSpec

#: What a weight has once it is decoded: the dtype from which such models are quantised.
_DECODED = "BF16"
_SHAPE = ".weight_shape"


class LogicalTensor(msgspec.Struct, frozen=True, gc=False):
    """A weight ``name`` of ``shape`` that is stored as several tensors.

    ``count``: how many matrices it is a stack of; ``codec``: of one of them. ``stored``: by suffix; what is beside the
    codes in the file and no part of the codec belongs to activations (``input_scale``) and is carried.
    """

    name: str
    stem: str
    shape: tuple[int, ...]
    format: Format
    codec: Codec
    count: int
    stored: dict[str, TensorSpec]

    @property
    def spec(self) -> TensorSpec:
        """The weight as a tensor of its own."""
        text, suffixes = _written(self.codec)
        parts = tuple([self.stored[suffix] for suffix in suffixes])
        end = bytes_of(_DECODED, math.prod(self.shape))
        return TensorSpec(self.name, _DECODED, self.shape, parts[0].file, 0, end, parts, text)

    @property
    def parts(self) -> Iterator[tuple[str, TensorSpec]]:
        """The tensors that the codec reads, by suffix."""
        return ((part.suffix, self.stored[part.suffix]) for part in self.codec.parts)


def logical_tensors(
    tensors: Mapping[str, TensorSpec],
    config: Mapping[str, Any] | None,
    declared: bool = False,
    shape_of: Callable[[TensorSpec], tuple[int, ...]] | None = None,
) -> dict[str, LogicalTensor]:
    """The weights of a checkpoint that are stored in formats with a codec, by their logical names.

    ``declared``: as ``quantised_tensors``. ``shape_of``: reads the numbers that a ``weight_shape`` holds, where words
    do not tell how many columns there are. Raises DamagedInputError for tensors that do not go together.
    """
    codes, companions = quantised_tensors(tensors, config, declared)
    beside: dict[str, list[str]] = {}
    for companion, name in companions.items():
        beside.setdefault(name, []).append(companion)
    weights = _Weights(tensors, Schemes(quantisation_config(config)), shape_of)
    found: dict[str, LogicalTensor] = {}
    for name, candidate in codes.items():
        if candidate.codec is not None:
            one = weights.stored_in(name, candidate, beside.get(name, ()))
            found[one.name] = one
    return found


class _Weights:
    """The quantised weights of a checkpoint. Those of one format, scheme and shapes share a codec, found once."""

    def __init__(
        self,
        tensors: Mapping[str, TensorSpec],
        schemes: Schemes,
        shape_of: Callable[[TensorSpec], tuple[int, ...]] | None,
    ) -> None:
        self._tensors, self._schemes, self._shape_of = tensors, schemes, shape_of
        self._codecs: dict[tuple[Any, ...], tuple[Codec, int, tuple[int, ...]]] = {}

    def stored_in(self, name: str, candidate: Format, beside: Sequence[str]) -> LogicalTensor:
        """The weight whose codes are the tensor ``name``. ``beside``: the names of what belongs to the codes."""
        stem, spec = name[: len(name) - len(candidate.suffix)], self._tensors[name]
        scheme = self._schemes.of(stem.removesuffix(".weight"))
        stored = {candidate.suffix: spec}
        kind: list[Any] = [id(candidate), id(scheme), spec.dtype, spec.shape]
        for suffix in (*candidate.companions, *candidate.optional):
            companion = self._tensors.get(stem + suffix)
            if companion is not None:
                stored[suffix] = companion
                kind += suffix, companion.dtype, companion.shape
        key = tuple(kind)
        known = self._codecs.get(key)
        if known is None:
            whole = Stored(stem, spec, {suffix: one for suffix, one in stored.items() if one is not spec}, scheme)
            known, read = self._codec(candidate, whole)
            if not read:
                self._codecs[key] = known
        codec, count, shape = known
        if others := [other for other in beside if other[len(stem) :] not in stored]:
            stored |= {other[len(stem) :]: self._tensors[other] for other in sorted(others)}
        ending = WEIGHT_OF.get(candidate.suffix, candidate.suffix)
        return LogicalTensor(stem + ending, stem, shape, candidate, codec, count, stored)

    def _codec(self, candidate: Format, stored: Stored) -> tuple[tuple[Codec, int, tuple[int, ...]], bool]:
        """The codec of a matrix, how many of them there are and the shape of all; whether a tensor was read for it."""
        assert candidate.codec is not None
        codec, shape, read = shared(candidate.codec(stored)), stored.codes.shape, False
        if isinstance(codec, PackedIntegers) and self._shape_of is not None and codec.needs_shape(shape[-1]):
            read = True
            codec = shared(replace(codec, shape=(codec.shape[0], self._shape_of(stored.beside[_SHAPE])[-1])))
        stacked = len(shape) - len(codec.parts[0].shape)
        count = shape[0] if stacked else 1
        for part in codec.parts:
            held = stored.codes if part.suffix == candidate.suffix else stored.beside[part.suffix]
            if held.shape != ((count, *part.shape) if stacked else part.shape):
                raise stored.unreadable(f"{held.name} should have the shape {[*part.shape]}")
        matrix = codec.shape[::-1] if codec.turned else codec.shape
        return (codec, count, (count, *matrix) if stacked else matrix), read


@functools.lru_cache(maxsize=4096)
def _written(codec: Codec) -> tuple[str, tuple[str, ...]]:
    """A codec as text, and the suffixes of what it reads."""
    return codec_text(codec), tuple(part.suffix for part in codec.parts)
