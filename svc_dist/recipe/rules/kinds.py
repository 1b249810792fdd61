"""Kinds of tensors that a rule may name in place of patterns: the parts of mixtures of experts, by their names.

Families name these parts differently, and some fuse the experts of a layer into one tensor.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Literal

from svc_dist.tensor_names import layer_of

Kind = Literal["routed_experts", "shared_experts", "router", "mtp"]

#: The networks between which a router chooses, one by one or all of a layer in one tensor: ``mlp.experts.7.up_proj``,
#: ``experts.gate_up_proj_bias``.
_ROUTED = frozenset(("experts",))
#: The same of Granite and Step, whose names do not say it.
_ROUTED_PAIRS = frozenset((
    ("block_sparse_moe", "input_linear"), ("block_sparse_moe", "output_linear"),
    ("moe", "gate_proj"), ("moe", "up_proj"), ("moe", "down_proj"),
))  # fmt: skip
#: The network that every token passes beside them, and its own gate.
_SHARED = frozenset(
    ("shared_experts", "shared_expert", "share_expert", "share_experts", "shared_expert_gate", "shared_mlp")
)
#: What chooses the experts of a token, with a bias for each.
_ROUTER = frozenset(("router", "router_bias", "expert_bias", "e_score_correction_bias"))
_ROUTER_PAIRS = frozenset(
    itertools.product(("mlp", "moe", "block_sparse_moe", "feed_forward", "ffn", "mixer"), ("gate", "moe_statics"))
)
#: Multi-token prediction under a name of its own, also as the first part of one: ``mtp.layers.0``, ``mtp_block.0``.
_MTP = ("mtp", "nextn")
#: Modules that only layers for multi-token prediction have, which have numbers like the others (DeepSeek, GLM).
_MTP_MODULES = frozenset(("eh_proj", "enorm", "hnorm", "shared_head"))


def kinds_of(names: Iterable[str]) -> dict[str, Kind]:
    """The kinds of tensors of models with the same layers; without those that are of none.

    Each tensor has one kind at most: all of a layer for multi-token prediction is ``mtp``, its experts too. Shared
    experts and routers are such only in layers with routed experts.
    """
    kinds: dict[str, Kind] = {}
    layers: dict[str, tuple[str, int] | None] = {}
    extra: set[tuple[str, int] | None] = set()
    mixtures: set[tuple[str, int] | None] = set()
    for name in names:
        words = name.split(".")
        found = layer_of(name)
        layers[name] = layer = None if found is None else found[:2]
        if layer is not None and not _MTP_MODULES.isdisjoint(words):
            extra.add(layer)
        kind = _kind(words)
        if kind is not None:
            kinds[name] = kind
        if kind == "routed_experts":
            mixtures.add(layer)
    if extra:
        kinds |= dict.fromkeys((name for name, layer in layers.items() if layer in extra), "mtp")
    return {name: kind for name, kind in kinds.items() if kind == "mtp" or layers[name] in mixtures}


def _kind(words: list[str]) -> Kind | None:
    """What the parts of a name say by themselves."""
    if any(word in _MTP or word.startswith(("mtp_", "nextn_")) for word in words):
        return "mtp"
    if not _SHARED.isdisjoint(words):
        return "shared_experts"
    pairs = [*itertools.pairwise(words)]
    if not _ROUTER.isdisjoint(words) or not _ROUTER_PAIRS.isdisjoint(pairs):
        return "router"
    return "routed_experts" if not _ROUTED.isdisjoint(words) or not _ROUTED_PAIRS.isdisjoint(pairs) else None
