"""Logical tensors: a quantised weight and its companions as the one weight that they store."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

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


@dataclass(frozen=True)
class LogicalTensor:
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
    stored: Mapping[str, TensorSpec]

    @property
    def spec(self) -> TensorSpec:
        """The weight as a tensor of its own."""
        end = bytes_of(_DECODED, math.prod(self.shape))
        parts = tuple(spec for _, spec in self.parts)
        text = codec_text(self.codec)
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
    schemes = Schemes(quantisation_config(config))
    found: dict[str, LogicalTensor] = {}
    for name, candidate in codes.items():
        if candidate.codec is not None:
            one = _logical(tensors, name, candidate, sorted(beside.get(name, [])), schemes, shape_of)
            found[one.name] = one
    return found


def _logical(
    tensors: Mapping[str, TensorSpec],
    name: str,
    candidate: Format,
    beside: list[str],
    schemes: Schemes,
    shape_of: Callable[[TensorSpec], tuple[int, ...]] | None,
) -> LogicalTensor:
    stem, spec = name[: len(name) - len(candidate.suffix)], tensors[name]
    known = [suffix for suffix in (*candidate.companions, *candidate.optional) if stem + suffix in tensors]
    scheme = schemes.of(stem.removesuffix(".weight"))
    stored = Stored(stem, spec, {suffix: tensors[stem + suffix] for suffix in known}, scheme)
    assert candidate.codec is not None
    codec = shared(candidate.codec(stored))
    if isinstance(codec, PackedIntegers) and shape_of is not None and codec.needs_shape(spec.shape[-1]):
        codec = shared(replace(codec, shape=(codec.shape[0], shape_of(stored.beside[_SHAPE])[-1])))
    stacked = len(spec.shape) - len(codec.parts[0].shape)
    count = spec.shape[0] if stacked else 1
    for part in codec.parts:
        held = stored.codes if part.suffix == candidate.suffix else stored.beside[part.suffix]
        if held.shape != ((count, *part.shape) if stacked else part.shape):
            raise stored.unreadable(f"{held.name} should have the shape {[*part.shape]}")
    matrix = codec.shape[::-1] if codec.turned else codec.shape
    ending = WEIGHT_OF.get(candidate.suffix, candidate.suffix)
    whole = {candidate.suffix: spec, **stored.beside, **{other[len(stem) :]: tensors[other] for other in beside}}
    shape = (count, *matrix) if stacked else matrix
    return LogicalTensor(stem + ending, stem, shape, candidate, codec, count, whole)
