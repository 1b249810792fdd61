"""What a model's config declares about the storage of one module: blocks, widths, and the tool that wrote it.

Tensors decide which format a weight has; this fills in what shapes cannot tell.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
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
        self._groups = _groups(declared)
        # Without groups, all modules have one.
        self._one = None if self._groups else _scheme(declared, {})
        self._by_group: dict[int, Scheme] = {}

    def of(self, module: str) -> Scheme:
        """What is declared for the weight of a module: one object for all modules of a group."""
        if self._one is not None:
            return self._one
        group = next((one for one in self._groups if one.holds(module)), None)
        if id(group) not in self._by_group:
            self._by_group[id(group)] = _scheme(self._declared, {} if group is None else group.weights)
        return self._by_group[id(group)]


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


class _Group:
    """A config group: the settings of weights of the modules that its targets name, or whose class they name."""

    def __init__(self, targets: Sequence[Any], weights: Mapping[str, Any]) -> None:
        named = [str(target) for target in targets]
        self.weights = weights
        self._names = frozenset(named)
        self._patterns = [
            found for one in named if one.startswith("re:") and (found := _pattern(one.removeprefix("re:"))) is not None
        ]
        self._is_class = any("." not in one and not one.startswith("re:") for one in named)

    def holds(self, module: str) -> bool:
        """Whether a target is a module of this name, or a class: its name has no dot."""
        return self._is_class or module in self._names or any(one.match(module) for one in self._patterns)


def _groups(declared: Mapping[str, Any]) -> list[_Group]:
    groups = declared.get("config_groups")
    entries = [one for one in groups.values() if isinstance(one, Mapping)] if isinstance(groups, Mapping) else []
    both = [(one.get("targets"), one.get("weights")) for one in entries]
    return [
        _Group(targets, weights)
        for targets, weights in both
        if isinstance(targets, Sequence) and isinstance(weights, Mapping)
    ]


def _pattern(text: str) -> re.Pattern[str] | None:
    try:
        return re.compile(text)
    except re.error:
        return None


def _pair(block: Any) -> tuple[int, int] | None:
    if not isinstance(block, Sequence) or len(block) != 2 or not all(isinstance(n, int) and n > 0 for n in block):
        return None
    return block[0], block[1]


def _number(value: Any) -> int | None:
    return value if isinstance(value, int) and value > 0 else None
