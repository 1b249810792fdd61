"""What `plan` says of quantised models: what is read in codes, and what is written in them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from svc_dist.checkpoint.formats.codecs.codec import Codec
from svc_dist.checkpoint.formats.codecs.fp8_block import Fp8Block
from svc_dist.checkpoint.formats.codecs.fp8_scaled import Fp8Scaled
from svc_dist.checkpoint.formats.codecs.mxfp import Mxfp
from svc_dist.checkpoint.formats.codecs.packed_integers import PackedIntegers
from svc_dist.checkpoint.formats.codecs.texts import codec_of
from svc_dist.plan.model import Plan
from svc_dist.sizes import counted


def code_lines(plan: Plan) -> Iterator[str]:
    """How many weights are read from codes of which format, and how many are written in them."""
    read, written = Counter[str](), Counter[str]()
    for tensor in plan.tensors:
        if tensor.codec is not None:
            written[format_name(codec_of(tensor.codec))] += 1
        names = {format_name(codec_of(one.codec)) for one in tensor.sources if one is not None and one.codec}
        read.update(dict.fromkeys(sorted(names), 1))
    if read:
        what = "in the base's own format" if written else "as bfloat16 weights"
        yield f"reads {_listed(read)} from codes, writes {_listed(written) if written else 'all'} {what}"


def format_name(codec: Codec) -> str:
    """What people call the format of a codec."""
    if isinstance(codec, Fp8Block):
        return f"FP8 in blocks of {codec.block[0]} x {codec.block[1]}"
    if isinstance(codec, Fp8Scaled):
        return "FP8"
    if isinstance(codec, Mxfp):
        return f"MXFP{codec.bits}"
    return f"INT{codec.bits}" if isinstance(codec, PackedIntegers) else "NVFP4"


def _listed(formats: Counter[str]) -> str:
    return " and ".join(f"{counted(number, 'weight')} ({name})" for name, number in sorted(formats.items()))
