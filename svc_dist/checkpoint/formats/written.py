"""How a weight is written in codes: the names and shapes of the tensors that hold it, in the order of their bytes."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import msgspec

from svc_dist.checkpoint.dtype import ITEM_SIZE, byte_count
from svc_dist.checkpoint.formats.codecs.codec import Part
from svc_dist.checkpoint.formats.codecs.nvfp4 import Nvfp4
from svc_dist.checkpoint.formats.codecs.texts import codec_of
from svc_dist.tensor_names import natural_key

#: How the name of a weight ends whose codes have a name of their own, by how that one ends.
WEIGHT_OF = {".weight_packed": ".weight", "_blocks": ""}
#: Projections that engines run as one matrix, so that they share an upper scale: by the ends of their modules' names.
_FUSED = (("q_proj", "k_proj", "v_proj"), ("q_a_proj", "kv_a_proj_with_mqa"), ("gate_proj", "up_proj"), ("w1", "w3"))
_ALIGNMENT = 8


class WrittenPart(msgspec.Struct, frozen=True, gc=False):
    """One tensor in a file. ``part``: what it is to the codec; None for a tensor that is written as it is."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    part: Part | None = None

    @property
    def nbytes(self) -> int:
        size = byte_count(self.dtype, self.shape)
        if size is None:
            raise ValueError(f"tensor {self.name!r}: dtype {self.dtype} has no size")
        return size


def written_parts(name: str, dtype: str, shape: Sequence[int], codec: str | None) -> list[WrittenPart]:
    """The tensors that hold a weight in a file, in the order of their bytes: the codes, then wider companions first."""
    if codec is None:
        return [WrittenPart(name, dtype, tuple(shape))]
    ending, parts = _form(codec, tuple(shape))
    stem = name[: len(name) - len(ending)]
    return [WrittenPart(stem + part.suffix, part.dtype, of, part) for part, of in parts]


@functools.lru_cache(maxsize=4096)
def _form(codec: str, shape: tuple[int, ...]) -> tuple[str, list[tuple[Part, tuple[int, ...]]]]:
    """How the name of a weight of this codec and shape ends, and its parts in order, each with its shape."""
    of = codec_of(codec)
    codes, *companions = of.parts
    stacked = (shape[0],) if len(shape) > len(of.shape) else ()
    ordered = [codes, *sorted(companions, key=lambda part: -ITEM_SIZE.get(part.dtype, 1))]
    ending = WEIGHT_OF.get(codes.suffix, codes.suffix)
    return ending, [(part, (*stacked, *part.shape)) for part in ordered]


def alignment(parts: Sequence[WrittenPart]) -> int:
    """A number of bytes: where these begin at a multiple of it, so does what follows them."""
    if len(parts) == 1:
        return ITEM_SIZE.get(parts[0].dtype, 1)
    return math.gcd(_ALIGNMENT, *(part.nbytes for part in parts))


def together(name: str, codec: str | None) -> str:
    """The first in natural order of the weights whose codes depend on one another; the same name for others.

    Engines run some matrices as one, which has one upper scale (NVFP4).
    """
    if codec is None or not isinstance(of := codec_of(codec), Nvfp4):
        return name
    ending = WEIGHT_OF.get(of.codes, of.codes)
    module = name.removesuffix(ending)
    parent, _, last = module.rpartition(".")
    for group in _FUSED:
        if last in group:
            return min((f"{parent}.{one}{ending}" for one in group), key=natural_key)
    return name
