"""What a config says about layers, for a result that has other layers than the model whose config it gets.

The number of layers, lists with a value for each layer, lists of layers' numbers, and kinds of layers that follow from
their numbers. mergekit sets the number alone; loaders then stop, or compute something else without a word.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from svc_dist.checkpoint.adapters.adapter import OpenedModel
from svc_dist.checkpoint.checkpoint import CONFIG
from svc_dist.errors import RecipeError, Warned, warned
from svc_dist.plan.files.configs import Difference
from svc_dist.plan.tensors.dispositions import Decision
from svc_dist.plan.tensors.layers import DEPTHS, TEXT_SECTIONS, language_stack
from svc_dist.recipe.resolved import ResolvedRecipe
from svc_dist.tensor_names import layer_of

#: Lists with a value for each layer, by name; others of that length are taken for such with a warning.
_PER_LAYER = re.compile(
    r".*layer_types|layers_block_type|block_types|block_configs|no_rope_layers|attention_layers|.*_per_layer|.*_pattern"
    r"|num_.*heads|(?:.*_)?intermediate_sizes?|ffn_multipliers|.*sliding_window.*|layer_rope_theta|attn_layers|.*_mults?"
    r"|.*mlp.*"
)
#: Lists as long as some models have layers that say nothing about layers.
_NO_LAYERS = re.compile(
    r".*token.*|architectures|.*_section|.*_labels?|.*kernel.*|.*_dims?|.*_id|.*time_step.*|.*_modules"
)
#: Lists of numbers of layers.
_INDICES = re.compile(
    r"mlp_only_layers|(?:.*_)?(?:layer|attn|block)_(?:idxs?|ind(?:ices|exe?s)|ids)|full_attn_idxs|hybrid_layer_ids"
    r"|cross_attention_layers|moe_layers|(?:.*_)?(?:sparse|dense|global|local|full|rope_scaling)(?:_attn|_attention)?_layers"
)
#: Every which layer is of another kind, where no list says so.
_PERIODS = (
    "attn_layer_period", "expert_layer_period", "moe_layer_freq", "moe_layer_interval", "decoder_sparse_step",
    "interleave_moe_layer_step", "no_rope_layer_interval", "global_attn_every_n_layers", "full_attention_interval",
    "sliding_window_pattern",
)  # fmt: skip
#: The first, or the last, so many layers are of another kind.
_FIRST = ("first_k_dense_replace", "num_dense_layers", "moe_layer_start_index")
_LAST = ("num_kv_shared_layers",)
_SLIDING, _FULL, _LINEAR = "sliding_attention", "full_attention", "linear_attention"


def _every(default: int, key: str = "sliding_window_pattern", others: str = _SLIDING) -> Callable[..., list[str]]:
    def types(section: Mapping[str, Any], count: int) -> list[str]:
        period = section.get(key, default)
        if type(period) is not int or period < 1:
            return []
        return [_FULL if (layer + 1) % period == 0 else others for layer in range(count)]

    return types


def _windowed(section: Mapping[str, Any], count: int) -> list[str]:
    first = section.get("max_window_layers", count)
    if not section.get("use_sliding_window") or not section.get("sliding_window") or type(first) is not int:
        return [_FULL] * count
    return [_SLIDING if layer >= first else _FULL for layer in range(count)]


#: The ``layer_types`` that architectures derive where a config has none.
_IMPLIED: dict[str, Callable[[Mapping[str, Any], int], list[str]]] = {
    "gemma2": _every(2), "gemma3_text": _every(6), "gemma3": _every(6), "gemma3n_text": _every(5),
    "gemma3n": _every(5), "cohere2": _every(4), "gpt_oss": _every(2, ""), "olmo3": _every(4, ""),
    "exaone4": _every(4), "qwen3_next": _every(4, "full_attention_interval", _LINEAR),
    **dict.fromkeys(("qwen2", "qwen3", "qwen2_moe", "qwen3_moe"), _windowed),
}  # fmt: skip

#: Where a layer of the result comes from: the number of a model, and its layer there.
Origin = tuple[int, int]


def layer_values(
    recipe: ResolvedRecipe, models: Sequence[OpenedModel], decisions: Sequence[Decision], described: int
) -> tuple[dict[str, Any], list[Warned]]:
    """The keys of the result's config that differ from those of model ``described``, by path, and warnings.

    Raises RecipeError where the result lacks a layer between others.
    """
    if all(model.layers is None for model in recipe.models):
        return {}, []
    origins = _origins(recipe, decisions)
    configs = [(model.model.config if model.model is not None else None) or {} for model in models]
    if not origins or not configs[described]:
        return {}, []
    values: dict[str, Any] = {}
    warnings: list[Warned] = []
    for path in section_paths(configs[described]):
        sections = [config_section(config, path) for config in configs]
        one = _Section(sections, origins, described, f"{models[described].location}/{CONFIG}")
        values |= {".".join((*path, key)): value for key, value in one.values().items()}
        warnings += one.warnings
    return values, warnings


def without_layers(
    recipe: ResolvedRecipe, differing: Mapping[str, Sequence[Difference]]
) -> dict[str, list[Difference]]:
    """The differences of configs, without those about layers where the recipe takes layers of models."""
    if all(model.layers is None for model in recipe.models):
        return {location: list(of) for location, of in differing.items()}
    kept = {location: [one for one in of if not _about_layers(one.key)] for location, of in differing.items()}
    return {location: of for location, of in kept.items() if of}


def with_values(config: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """A config with other values of keys, which are paths of sections."""
    result = dict(config)
    for path, value in values.items():
        section, *inner = path.split(".", 1)
        result[section] = with_values(result.get(section) or {}, {inner[0]: value}) if inner else value
    return result


def _about_layers(key: str) -> bool:
    last = key.rpartition(".")[2]
    return last in (*DEPTHS, *_FIRST) or any(names.fullmatch(last) for names in (_PER_LAYER, _INDICES))


def _origins(recipe: ResolvedRecipe, decisions: Sequence[Decision]) -> list[Origin]:
    """Where each layer of the result comes from, in order."""
    written = [one for one in decisions if one.spec is not None]
    stack = language_stack([one.name for one in written], "the result")
    found: dict[int, Origin] = {}
    for one in written:
        place = layer_of(one.name)
        if place is None or place[0] != stack or place[1] in found:
            continue
        number = one.disposition.source if one.disposition.kind == "copied" else (one.disposition.models or (0,))[0]
        layers = recipe.models[number].layers
        found[place[1]] = (number, place[1] if layers is None else place[1] - layers.at + layers.first)
    missing = next((layer for layer in range(len(found)) if layer not in found), None)
    if missing is not None:
        raise RecipeError(
            f"{recipe.origin.at('models')}: the result has {len(found)} layers, up to {max(found)}, but no layer "
            f"{missing}",
            "`at` says which number the first layer of a model's layer_range gets in the result",
            code="layers-with-hole",
        )
    return [found[layer] for layer in sorted(found)]


def section_paths(config: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """The paths of the config and of its sections about the language model."""
    path: tuple[str, ...] = ()
    section: Any = config
    while isinstance(section, Mapping):
        yield path
        name = next((name for name in TEXT_SECTIONS if isinstance(section.get(name), Mapping)), None)
        if name is None:
            return
        path, section = (*path, name), section[name]


def config_section(config: Mapping[str, Any], path: Sequence[str]) -> Mapping[str, Any]:
    for name in path:
        config = config.get(name) or {}
    return config


class _Section:
    """One section of the configs of all models, and the layers that the result has of them."""

    def __init__(
        self, sections: Sequence[Mapping[str, Any]], origins: Sequence[Origin], described: int, where: str
    ) -> None:
        self.sections, self.origins, self.where = sections, origins, where
        self.own = sections[described]
        self.counts = [next((one[key] for key in DEPTHS if type(one.get(key)) is int), None) for one in sections]
        self.count = self.counts[described]
        self.warnings: list[Warned] = []

    def values(self) -> dict[str, Any]:
        """The keys whose values differ from those of the config that is copied."""
        if self.count is None:
            return {}
        unchanged = all(layer == own for layer, (_, own) in enumerate(self.origins))
        if unchanged and len(self.origins) == self.count:
            values: dict[str, Any] = {}
        else:
            values = {key: len(self.origins) for key in DEPTHS if self.own.get(key) == self.count}
        for key, value in self.own.items():
            if key in values:
                continue
            new = self._of_layers(key, value)
            if new is None and key == "linear_attn_config" and isinstance(value, Mapping):
                new = {name: self._indices((key, name), each, 1) or each for name, each in value.items()}
            if new is None and not unchanged:
                new = self._numbered(key, value)
            if new is not None:
                values[key] = new
        values |= self._implied()
        return {key: value for key, value in values.items() if self.own.get(key) != value}

    def _of_layers(self, key: str, value: Any) -> Any:
        """The value of a key that holds something for each layer, or numbers of layers; None for other keys."""
        text = isinstance(value, str) and "pattern" in key
        if (text or isinstance(value, list)) and len(value) == self.count and not _NO_LAYERS.fullmatch(key):
            picked = []
            for number, layer in self.origins:
                theirs = self.sections[number].get(key, ())
                if not isinstance(theirs, type(value)) or len(theirs) != self.counts[number]:
                    self._warn(key, "other models of the merge have no such value for each layer")
                    return None
                picked.append(theirs[layer])
            if not text and not _PER_LAYER.fullmatch(key):
                self._warn(key, "has as many values as there are layers: taken for one of each layer")
            return "".join(picked) if text else picked
        return self._indices((key,), value, 0) if _INDICES.fullmatch(key) else None

    def _indices(self, path: Sequence[str], value: Any, first: int) -> list[int] | None:
        """The numbers of those layers of the result that the sources' lists of numbers (from ``first``) name."""
        if not isinstance(value, list) or not value or not all(type(one) is int for one in value):
            return None
        lists = [config_section(section, path[:-1]).get(path[-1]) or () for section in self.sections]
        return [layer + first for layer, (number, own) in enumerate(self.origins) if own + first in lists[number]]

    def _numbered(self, key: str, value: Any) -> int | None:
        """The value of a key by which kinds of layers follow from their numbers; None where it can stay."""
        if type(value) is not int:
            return None
        moved = value > 1 and any((layer - own) % value for layer, (_, own) in enumerate(self.origins))
        if moved and key in _PERIODS and key not in self._listed():
            self._warn(key, f"one layer in {value} is of another kind, by its number, and numbers change")
        if key in _LAST and value > 0:
            self._warn(key, f"the last {value} layers are of another kind, and other layers are the last ones now")
        if key not in _FIRST:
            return None
        kinds = [own < (self.sections[number].get(key) or 0) for number, own in self.origins]
        if kinds != sorted(kinds, reverse=True):
            self._warn(key, "the first layers are of another kind, and the result has such layers after others")
            return None
        return sum(kinds)

    def _listed(self) -> set[str]:
        """The keys of periods beside which the config, or the result's, lists the kinds of all layers."""
        known = self.own.get("layer_types") is not None or self.own.get("model_type") in _IMPLIED
        keys = {"sliding_window_pattern", "full_attention_interval", "global_attn_every_n_layers"} if known else set()
        if self.own.get("no_rope_layers"):
            keys |= {"no_rope_layer_interval"}
        return keys | ({"interleave_moe_layer_step"} if self.own.get("moe_layers") else set())

    def _implied(self) -> dict[str, Any]:
        """The kinds of layers that architectures derive from their numbers, where the result's are others."""
        kind = _IMPLIED.get(str(self.own.get("model_type")))
        if kind is None or self.own.get("layer_types") is not None:
            return {}
        by_model = [kind(section, count or 0) for section, count in zip(self.sections, self.counts, strict=True)]
        if any(len(by_model[number]) <= own for number, own in self.origins):
            self._warn("layer_types", "not set, and svc_dist cannot tell which layers are of which kind")
            return {}
        types = [by_model[number][own] for number, own in self.origins]
        return {} if types == kind(self.own, len(types)) else {"layer_types": types}

    def _warn(self, key: str, why: str) -> None:
        text = f"{self.where}: {key}: {why}; check it in the result's {CONFIG}"
        self.warnings.append(warned("config-of-layers", text))
