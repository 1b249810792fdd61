"""Who recognises what: every known format, the narrower pattern first, and the quantised tensors of a checkpoint.

Tensors decide, not the config: which formats a ``quantization_config`` names, and under which key, differs between the
tools that write it. A new format is one line here.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping
from importlib.metadata import entry_points
from typing import Any

from svc_dist.checkpoint.dtype import FLOAT_DTYPES, QUANTISED_DTYPES
from svc_dist.checkpoint.formats.base import SCALES, Format
from svc_dist.checkpoint.formats.codecs.fp8_scaled import fp8
from svc_dist.checkpoint.formats.codecs.mxfp import mxfp4, mxfp4_of_gpt_oss, mxfp8
from svc_dist.checkpoint.formats.codecs.nvfp4 import nvfp4
from svc_dist.checkpoint.formats.codecs.packed_integers import packed_integers
from svc_dist.checkpoint.formats.declarations import declarations
from svc_dist.checkpoint.formats.refused import UNKNOWN, Unread
from svc_dist.checkpoint.header import TensorSpec

_E4M3, _U8, _I32 = ("F8_E4M3",), ("U8",), ("I32",)
_ACTIVATIONS = (".input_scale", ".weight_scale_inv", ".activation_scale", ".act_scale")
_BY_HAND = "dequantise it with the tool that made it, or use the checkpoint from which it was quantised"

FORMATS = (
    Format("MXFP8", ".weight", _E4M3, {".weight_scale": _U8}, codec=mxfp8),
    Format("MXFP8", ".weight", _E4M3, {".weight_scale_inv": _U8}, codec=mxfp8),
    Format("FP8 in blocks", ".weight", _E4M3, {".weight_scale_inv": SCALES}, _ACTIVATIONS, codec=fp8),
    Format("FP8 with scales", ".weight", _E4M3, {".weight_scale": SCALES}, _ACTIVATIONS, codec=fp8),
    Format("FP8 of Mistral", ".weight", _E4M3, {".qscale_weight": SCALES}, (".qscale_act",), codec=fp8),
    Format("FP8 in blocks, fused experts", "", _E4M3, {"_scale_inv": SCALES}, codec=fp8),
    Format("FP8 with scales, fused experts", "", _E4M3, {"_scale": SCALES}, codec=fp8),
    Format("FP8 in blocks of DeepSeek-V4", ".weight", _E4M3, {".scale": ("F8_E8M0",)}, codec=fp8),
    Format("MXFP4 of DeepSeek-V4", ".weight", ("I8", "F4"), {".scale": ("F8_E8M0",)}, codec=mxfp4),
    Format("MXFP4 of gpt-oss", "_blocks", _U8, {"_scales": _U8}, codec=mxfp4_of_gpt_oss),
    Format("MXFP4", ".weight_packed", _U8, {".weight_scale": _U8}, codec=mxfp4),
    Format("MXFP4", ".weight", ("U8", "F4"), {".weight_scale": ("U8", "F8_E8M0")}, codec=mxfp4),
    Format("NVFP4", ".weight_packed", _U8, {".weight_scale": _E4M3, ".weight_global_scale": ("F32",)},
           (".input_global_scale",), codec=nvfp4),
    Format("NVFP4", ".weight", ("U8", "F4"), {".weight_scale": _E4M3, ".weight_scale_2": ("F32",)}, (".input_scale",),
           codec=nvfp4),
    Format("packed integers of compressed-tensors", ".weight_packed", _I32,
           {".weight_scale": SCALES, ".weight_shape": ("I64", "I32")}, (".weight_zero_point", ".weight_g_idx"),
           codec=packed_integers),
    Format("INT8 with scales", ".weight", ("I8",), {".weight_scale": SCALES}, (".weight_zero_point", ".input_scale")),
    Format("GPTQ", ".qweight", _I32, {".scales": SCALES, ".g_idx": _I32}, (".qzeros",), _BY_HAND),
    Format("AWQ", ".qweight", _I32, {".scales": SCALES, ".qzeros": _I32}, (), _BY_HAND),
    Format("GPTQ or AWQ", ".qweight", _I32, {".scales": SCALES}, (".qzeros", ".g_idx"), _BY_HAND),
    Format("EETQ", ".qweight", ("I8",), {".weight_scales": SCALES}, (), _BY_HAND),
    Format("EETQ", ".weight", ("I8",), {".weight_scales": SCALES}, (), _BY_HAND),
    Format("Marlin", ".B", _I32, {".s": SCALES}, (".workspace",), _BY_HAND),
    Format("AQLM", ".codes", ("I8", "I16", "I32"), {".codebooks": SCALES, ".scales": SCALES}, (), _BY_HAND),
    Format("EXL2", ".q_weight", _I32, {".q_scale": _I32},
           (".q_scale_max", ".q_groups", ".q_group_map", ".q_invperm", ".q_perm"), _BY_HAND),
    Format("EXL3", ".trellis", ("I16",), {".svh": SCALES}, (".suh", ".su", ".sv", ".mcg", ".mul1"), _BY_HAND),
    Format("BitNet", ".weight", _U8, {".weight_scale": ("F32", "BF16", "F16")}, (), _BY_HAND),
    Format("bitsandbytes, 4 bits", "", ("U8", "BF16", "F32", "F16"), {".absmax": ("F32", "U8")},
           (".quant_map", ".nested_absmax", ".nested_quant_map", ".quant_state.bitsandbytes__nf4",
            ".quant_state.bitsandbytes__fp4"), _BY_HAND),
    Format("bitsandbytes, 8 bits", ".weight", ("I8",), {".SCB": ("F32",)}, (".weight_format",), _BY_HAND),
    Format("MLX", ".weight", ("U32",), {".scales": (*SCALES, "U8")}, (".biases",), _BY_HAND),
    Format("HQQ", ".W_q", ("U8", "I32", "I16", "I8", "F16", "BF16", "F32"), {".scale": SCALES, ".zero": SCALES},
           (".meta", ".nbits", ".group_size", ".shape", ".axis", ".packing"), _BY_HAND),
    Format("quanto", "._data._data", ("I8", "U8"), {"._scale": SCALES}, ("._shift",), _BY_HAND),
    Format("quanto", "._data", ("I8", "U8", "F8_E4M3", "F8_E5M2"), {"._scale": SCALES}, ("._shift",), _BY_HAND),
)  # fmt: skip

#: Beside codes, a tensor of the same module whose last part says one of these has no meaning alone either.
_COMPANION = re.compile(r"scale|zero|absmax|quant|scb|g_idx|amax|packed", re.IGNORECASE)
#: Whole numbers in two dimensions are codes where their module has a scale or their name says so: indices are I64.
_CODES = frozenset(("I8", "U8", "I16", "U16", "I32", "U32"))
_CODE_NAMES = re.compile(r"qweight|.*quantized.*|.*_packed|packed_.*|int_weight")
_SCALE = re.compile(r"scales?(?:$|_|\d)|absmax|scb$|zeros?$", re.IGNORECASE)


def known_formats() -> Iterator[Format]:
    """The formats of installed packages (entry points of the group ``svc_dist.formats``), then those above."""
    for entry in sorted(entry_points(group="svc_dist.formats"), key=lambda entry: entry.name):
        yield entry.load()
    yield from FORMATS


@functools.cache
def _formats() -> tuple[Format, ...]:
    """The formats. Installed packages are searched once, not for every model and result."""
    return tuple(known_formats())


def _possible(tensors: Mapping[str, TensorSpec]) -> dict[tuple[str, str], list[Format]]:
    """The formats whose codes a tensor may hold, by the last part of its name and its dtype: few of all that are known.

    Those of which some kind of tensor is nowhere there are none.
    """
    kinds = {(name[name.rfind(".") + 1 :], spec.dtype) for name, spec in tensors.items()}

    def is_named(last: str, ending: str) -> bool:
        return f".{last}".endswith(ending[ending.rfind(".") :] if "." in ending else ending)

    def is_there(ending: str, dtypes: tuple[str, ...]) -> bool:
        return any(dtype in dtypes and is_named(last, ending) for last, dtype in kinds)

    there = [one for one in _formats() if all(is_there(*each) for each in one.companions.items())]
    return {
        (last, dtype): [one for one in there if dtype in one.dtypes and is_named(last, one.suffix)]
        for last, dtype in sorted(kinds)
    }


def quantised_tensors(
    tensors: Mapping[str, TensorSpec], config: Mapping[str, Any] | None, declared: bool = False
) -> tuple[dict[str, Format], dict[str, str]]:
    """The format of each tensor that holds codes, and for each companion the tensor of codes that it belongs to.

    Codes that no format explains count as quantised too where their dtype stores no weights: floats of eight bits and
    fewer, whole numbers in two dimensions beside a scale, or whatever is no float in a model whose ``config`` says that
    it is quantised (I64 only by a tool that svc_dist does not know: else they are indices). ``declared``: a file beside
    the config says so.
    """
    possible = _possible(tensors)
    unread = Unread(config, [last for last, _ in possible])
    suspicious = {last for last, _ in possible if _COMPANION.search(last) is not None}
    configured = declared or bool(declarations(config))
    scaled: set[str] | None = None
    codes: dict[str, Format] = {}
    companions: dict[str, str] = {}
    suspects: list[str] = []
    for name, spec in tensors.items():
        last = name[name.rfind(".") + 1 :]
        if last in suspicious:
            suspects.append(name)
        for candidate in possible[last, spec.dtype]:
            beside = candidate.recognise(spec, tensors)
            if beside is not None:
                codes[name] = candidate
                for companion in beside:
                    companions[companion] = name
                break
        else:
            if spec.dtype in FLOAT_DTYPES:
                continue
            unknown = spec.dtype.startswith("F") and spec.dtype in QUANTISED_DTYPES
            indices = spec.dtype == "BOOL" or (spec.dtype == "I64" and not unread.method)
            unknown = unknown or (configured and not indices)
            if not unknown and spec.dtype in _CODES and len(spec.shape) > 1:
                module = name.rpartition(".")[0]
                scaled = _with_scales(tensors) if scaled is None else scaled
                unknown = module in scaled or _CODE_NAMES.fullmatch(last) is not None
            if unknown:
                codes[name] = UNKNOWN
    codes = {name: found for name, found in codes.items() if name not in companions}
    if others := [name for name in suspects if name not in companions and name not in codes]:
        modules = {name.rpartition(".")[0]: name for name in codes} | {name: name for name in codes}
        for name in others:
            if (code := modules.get(name.rpartition(".")[0])) is not None:
                companions[name] = code
    owners = set(companions.values()) if any(found is UNKNOWN for found in codes.values()) else set()
    return {
        name: unread.format_of(tensors[name], found, tensors, name not in owners) for name, found in codes.items()
    }, companions


def _with_scales(tensors: Mapping[str, TensorSpec]) -> set[str]:
    """The modules that have a scale, by its name."""
    return {
        spec.name.rpartition(".")[0]
        for spec in tensors.values()
        if spec.dtype in SCALES and _SCALE.search(spec.name.rpartition(".")[2]) is not None
    }
