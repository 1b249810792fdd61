"""Which range of whole numbers a model uses: tools that write packed integers differ, and no config says it."""

from __future__ import annotations

from dataclasses import replace

from msgspec import structs

from svc_dist.checkpoint.checkpoint import Checkpoint
from svc_dist.checkpoint.formats.codecs.packed_integers import PackedIntegers
from svc_dist.checkpoint.formats.codecs.texts import codec_of, codec_text
from svc_dist.checkpoint.header import TensorSpec
from svc_dist.storage.access import Access
from svc_dist.storage.open import open_storage

#: Bytes of codes that are looked at: of groups that use the whole range, every fourth has its lowest code.
_LOOKED_AT = 1 << 20


def with_ranges(model: Checkpoint, access: Access) -> Checkpoint:
    """A decoded checkpoint whose codecs of packed integers know whether the lowest code is used.

    Where it is not, the scale is the largest entry over ``2^(bits - 1) - 1``, by which encoding gives back every weight
    that was decoded; else over half a code more, as compressed-tensors does. One weight tells for the model.
    """
    every = ((spec, _packed(spec)) for spec in model.tensors.values())
    found = next(((spec, codec) for spec, codec in every if codec is not None), None)
    if found is None or _uses_lowest(model, *found, access):
        return model
    tensors = {name: _symmetric(spec) for name, spec in model.tensors.items()}
    return replace(model, tensors=tensors)


def _packed(spec: TensorSpec) -> PackedIntegers | None:
    """The codec of packed integers without zero points whose words hold nothing else."""
    codec = None if spec.codec is None else codec_of(spec.codec)
    if not isinstance(codec, PackedIntegers) or codec.zero_points or codec.bits not in (4, 8):
        return None
    return None if codec.shape[1] * codec.bits % 32 else codec


def _uses_lowest(model: Checkpoint, spec: TensorSpec, codec: PackedIntegers, access: Access) -> bool:
    codes = spec.parts[0]
    identity = next(file for file in model.files if file.name == codes.file)
    data = open_storage(model.location, access).read_pinned(
        identity, codes.start, min(codes.end, codes.start + _LOOKED_AT)
    )
    lowest = [byte for byte in set(data) if byte == 0 or (codec.bits == 4 and not (byte & 15 and byte >> 4))]
    return bool(lowest)


def _symmetric(spec: TensorSpec) -> TensorSpec:
    codec = None if spec.codec is None else codec_of(spec.codec)
    if not isinstance(codec, PackedIntegers) or codec.zero_points:
        return spec
    return structs.replace(spec, codec=codec_text(replace(codec, symmetric_range=True)))
