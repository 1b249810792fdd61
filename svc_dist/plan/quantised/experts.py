"""A warning where experts in codes are merged by what finds directions or entries in their deltas."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from svc_dist.checkpoint.formats.codecs.codec import Codec
from svc_dist.checkpoint.formats.codecs.mxfp import Mxfp
from svc_dist.checkpoint.formats.codecs.nvfp4 import Nvfp4
from svc_dist.checkpoint.formats.codecs.packed_integers import PackedIntegers
from svc_dist.checkpoint.formats.codecs.texts import codec_of
from svc_dist.errors import Warned, printable, warned
from svc_dist.methods.calibration.chain import names
from svc_dist.methods.registry import METHODS
from svc_dist.plan.inputs import InputRange, PlannedModel
from svc_dist.plan.tensor import PlannedTensor
from svc_dist.plan.tensors.dispositions import Disposition
from svc_dist.recipe.resolved import ResolvedRecipe

#: Averages, sums and interpolations: they choose no entries and no directions by the deltas.
_PLAIN = frozenset({"linear", "task_arithmetic", "slerp", "nuslerp", "multislerp", "karcher", "passthrough"})
_SHOWN = 8  # experts in a message
#: What it costs, and what to do without other experts: docs/choosing.md#experts-stored-in-fp8-and-four-bits.
_FP8 = (
    "in FP8, SVC on the sum lost 8.1 points, SWUDI 12.0 and the plain sum none",
    "else take swudi, which was still the best there",
)
_FOUR_BITS = (
    "in INT4, SVC on the sum lost 14.8 points, SWUDI 28.8 and the plain sum 3.5, which made all of them equal",
    "else take task_arithmetic without calibrate: nothing was better there",
)


def warnings(
    recipe: ResolvedRecipe,
    models: Sequence[PlannedModel],
    tensors: Sequence[PlannedTensor],
    dispositions: Sequence[Sequence[Disposition]],
) -> Iterator[Warned]:
    """At most one: that rounding can hide what these methods look for. ``dispositions``: by number, in all results."""
    experts: set[int] = set()
    codecs: set[Codec] = set()
    methods: dict[str, None] = {}
    sensitive = [[one for one in each if one.kind == "merged" and not _is_plain(one)] for each in dispositions]
    for tensor in tensors:
        for source in _coded(tensor) if sensitive[tensor.disposition] else ():
            found = {codec_of(text) for text in _codecs(source)}
            few_bits = any(map(_has_four_bits, found))
            concerned = [one for one in sensitive[tensor.disposition] if few_bits or _is_spectral(one)]
            if concerned:
                experts.add(source.input)
                codecs |= found
                methods |= dict.fromkeys(map(_described, concerned))
    if experts:
        listed = [printable(models[number].name) for number in sorted(experts)]
        more = f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
        few_bits = any(map(_has_four_bits, codecs))
        cost, instead = _FOUR_BITS if few_bits else _FP8
        yield warned(
            "quantised-experts",
            f"{recipe.origin.at('models')}: {', '.join(listed[:_SHOWN])}{more} "
            f"{'is' if len(listed) == 1 else 'are'} stored in {' and '.join(sorted({one.label for one in codecs}))}, "
            f"whose rounding can hide what {' and '.join(methods)} must find in deltas: with three fine-tunes of a "
            f"language model (deltas of 0.36 % of its norm), {cost} (docs/choosing.md); merge the experts' bfloat16 "
            f"originals if there are any (the base may stay quantised), {instead}",
        )


def _coded(tensor: PlannedTensor) -> Iterator[InputRange]:
    """What experts store in codes of a merged tensor."""
    return (one for one in tensor.sources[1:] if one is not None and one.is_coded)


def _codecs(source: InputRange) -> Iterator[str]:
    """The codecs of an input, or of its parts."""
    if source.codec is not None:
        yield source.codec
        return
    for part in source.parts:
        yield from _codecs(part)


def _has_four_bits(codec: Codec) -> bool:
    """Whether codes have four bits or fewer."""
    return isinstance(codec, Nvfp4) or (isinstance(codec, Mxfp | PackedIntegers) and codec.bits <= 4)


def _is_plain(disposition: Disposition) -> bool:
    return disposition.calibration is None and disposition.method in _PLAIN


def _is_spectral(disposition: Disposition) -> bool:
    """Whether it looks for directions in the deltas."""
    method = METHODS[disposition.method or ""]
    return disposition.calibration is not None or method.family == "spectral"


def _described(disposition: Disposition) -> str:
    """The merge method, with its calibrations."""
    calibrations = ", then ".join(names(disposition.calibration))
    return f"{disposition.method} with {calibrations}" if calibrations else str(disposition.method)
