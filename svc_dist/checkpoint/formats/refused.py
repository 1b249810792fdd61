"""Quantised weights that svc_dist does not decode: what they are called, and what to merge instead."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from svc_dist.checkpoint.formats.base import Format
from svc_dist.checkpoint.formats.declarations import declared_sections
from svc_dist.checkpoint.header import TensorSpec

_RELEASE = "use the release of this model in bfloat16, or in a format that svc_dist reads (docs/quantised.md)"

#: The formats of codes that no entry of the table explains.
UNKNOWN = Format("an unknown format", "", (), instead=_RELEASE)
NO_SCALE = Format(
    "FP8 without a scale", "", (),
    instead=f"no file of the model holds its weight_scale_inv or weight_scale; download the model again, or {_RELEASE}",
)  # fmt: skip
OTHER_FLOATS = Format("other small floats than E4M3 and E2M1", "", (), instead=_RELEASE)

#: Values of ``quant_method`` of tools whose arithmetic the codecs have; ModelOpt writes ``modelopt_fp4`` too.
_READ = ("fp8", "compressed-tensors", "modelopt", "mxfp4", "mxfp8", "fbgemm_fp8")
#: Tensors beside codes that change what they stand for, by what they append to the stem.
_BESIDE = {
    ".pre_quant_scale": "with scales of the inputs (pre_quant_scale, AWQ)",
    ".svdquant_lora_a": "with a low-rank part (svdquant_lora_a)",
    ".weight_g_idx": "with columns in another order (weight_g_idx, actorder)",
}


class Unread:
    """Which codes of a model svc_dist does not decode, although it may know their format, by its ``config``.

    ``lasts``: the last parts of the names of its tensors.
    """

    def __init__(self, config: Mapping[str, Any] | None, lasts: Iterable[str]) -> None:
        there = {f".{last}" for last in lasts}
        self._beside = {ending: what for ending, what in _BESIDE.items() if ending in there}
        sections = list(declared_sections(config))
        methods = [str(section.get("quant_method") or "").lower() for section in sections]
        self.method = next((method for method in methods if method and not _is_read(method)), "")
        self._rotated = any(section.get("transform_config") for section in sections)
        self._named: dict[tuple[str, str], Format] = {}

    def format_of(self, spec: TensorSpec, found: Format, tensors: Mapping[str, TensorSpec], alone: bool) -> Format:
        """The format of codes that have that of ``found`` by their tensors: without a codec where they are not decoded.

        ``alone``: no tensor belongs to them.
        """
        if found is UNKNOWN:
            return self._unknown(spec, alone)
        if found.codec is None:
            return found
        if self.method:
            return self._refused(found, f"by {self.method}")
        if self._rotated:
            return self._refused(found, "rotated (transform_config)")
        if not self._beside:
            return found
        stem = spec.name[: len(spec.name) - len(found.suffix)]
        what = next((what for ending, what in self._beside.items() if stem + ending in tensors), None)
        return found if what is None else self._refused(found, what)

    def _unknown(self, spec: TensorSpec, alone: bool) -> Format:
        if self.method:
            return self._refused(UNKNOWN, f"of {self.method}")
        if spec.dtype == "F8_E4M3":
            return NO_SCALE if alone else UNKNOWN
        return OTHER_FLOATS if spec.dtype.startswith("F") and spec.dtype != "F4" else UNKNOWN

    def _refused(self, found: Format, what: str) -> Format:
        key = (found.name, what)
        if key not in self._named:
            self._named[key] = replace(found, name=f"{found.name} {what}", instead=_RELEASE, codec=None)
        return self._named[key]


def _is_read(method: str) -> bool:
    return method in _READ or method.startswith("modelopt")
