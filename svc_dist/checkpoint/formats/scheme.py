"""What a model's config declares about the storage of one module: blocks, widths, and the tool that wrote it.

Tensors decide which format a weight has; this fills in what shapes cannot tell.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from svc_dist.checkpoint.formats.declarations import CONFIG_KEYS


@dataclass(frozen=True)
class Scheme:
    """``method``: ``quant_method``, "" for none. ``block``: rows and columns of a block. ``powers``: scales are powers
    of two. ``scale_format``: ``scale_fmt`` as written. ``bits``, ``group``: of packed integers, None where not said."""

    method: str = ""
    block: tuple[int, int] | None = None
    powers: bool = False
    scale_format: str | None = None
    bits: int | None = None
    group: int | None = None


def quantisation_config(config: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """The section in which loaders look: at the top, then in sections such as ``text_config``; empty for none."""
    sections = [config or {}, *(value for value in (config or {}).values() if isinstance(value, Mapping))]
    for section in sections:
        for key in CONFIG_KEYS:
            if isinstance(section.get(key), Mapping):
                found: Mapping[str, Any] = section[key]
                return found
    return {}


class Schemes:
    """What a ``quantization_config`` declares for each module."""

    def __init__(self, declared: Mapping[str, Any]) -> None:
        self._declared = declared
        # Without groups, all modules have one.
        self._one = None if declared.get("config_groups") else scheme_of(declared, "")
        self._by_group: dict[int, Scheme] = {}

    def of(self, module: str) -> Scheme:
        """What is declared for the weight of a module: one object for all modules of a group."""
        if self._one is not None:
            return self._one
        group = next(_groups(self._declared, module), None)
        if id(group) not in self._by_group:
            self._by_group[id(group)] = _scheme(self._declared, group or {})
        return self._by_group[id(group)]


def scheme_of(declared: Mapping[str, Any], module: str) -> Scheme:
    """What a ``quantization_config`` declares for the weight of ``module``."""
    return _scheme(declared, next(_groups(declared, module), {}))


def _scheme(declared: Mapping[str, Any], weights: Mapping[str, Any]) -> Scheme:
    """What it declares, with the settings of weights of a config group."""
    block = declared.get("weight_block_size") or weights.get("block_structure")
    scale_format = declared.get("scale_fmt")
    return Scheme(
        method=str(declared.get("quant_method") or "").lower(),
        block=_pair(block),
        powers=scale_format == "ue8m0",
        scale_format=scale_format if isinstance(scale_format, str) else None,
        bits=_number(weights.get("num_bits")),
        group=_number(weights.get("group_size")),
    )


def _groups(declared: Mapping[str, Any], module: str) -> Iterator[Mapping[str, Any]]:
    """The settings of weights of each config group whose targets name the module or its class, in order."""
    groups = declared.get("config_groups")
    for group in groups.values() if isinstance(groups, Mapping) else ():
        targets = group.get("targets") if isinstance(group, Mapping) else None
        weights = group.get("weights") if isinstance(group, Mapping) else None
        named = isinstance(targets, Sequence) and any(_is_target(str(target), module) for target in targets)
        if named and isinstance(weights, Mapping):
            yield weights


def _is_target(target: str, module: str) -> bool:
    """Whether a target is a module of this name, or a class: its name has no dot."""
    if target.startswith("re:"):
        try:
            return re.match(target[3:], module) is not None
        except re.error:
            return False
    return target == module or "." not in target


def _pair(block: Any) -> tuple[int, int] | None:
    if not isinstance(block, Sequence) or len(block) != 2 or not all(isinstance(n, int) and n > 0 for n in block):
        return None
    return block[0], block[1]


def _number(value: Any) -> int | None:
    return value if isinstance(value, int) and value > 0 else None
