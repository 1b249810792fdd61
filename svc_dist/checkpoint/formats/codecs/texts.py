"""The codecs by name, as the text that a plan records."""

from __future__ import annotations

import dataclasses
import functools
import json
from typing import Any

from svc_dist.checkpoint.formats.codecs.codec import Codec
from svc_dist.checkpoint.formats.codecs.fp8_block import Fp8Block
from svc_dist.checkpoint.formats.codecs.fp8_scaled import Fp8Scaled
from svc_dist.checkpoint.formats.codecs.mxfp import Mxfp
from svc_dist.checkpoint.formats.codecs.nvfp4 import Nvfp4
from svc_dist.checkpoint.formats.codecs.packed_integers import PackedIntegers

CODECS: dict[str, type[Codec]] = {
    "fp8-block": Fp8Block,
    "fp8-scaled": Fp8Scaled,
    "mxfp": Mxfp,
    "nvfp4": Nvfp4,
    "packed-integers": PackedIntegers,
}
_NAMES = {codec: name for name, codec in CODECS.items()}


@functools.lru_cache(maxsize=4096)
def shared(codec: Codec) -> Codec:
    """The same codec, one object for all equal ones: what it computes once is computed once for all."""
    return codec


@functools.lru_cache(maxsize=4096)
def codec_text(codec: Codec) -> str:
    """A codec as text: its name and its values."""
    return f"{_NAMES[type(codec)]} {json.dumps(dataclasses.astuple(codec), separators=(',', ':'))}"


@functools.lru_cache(maxsize=4096)
def codec_of(text: str) -> Codec:
    """The codec of a text. Raises ValueError for anything else."""
    name, _, values = text.partition(" ")
    if name not in CODECS:
        raise ValueError(f"there is no codec {name!r}")
    try:
        return CODECS[name](*map(_frozen, json.loads(values)))
    except TypeError as error:
        raise ValueError(f"the codec {text!r} is damaged: {error}") from None


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, list) else value
