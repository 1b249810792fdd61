"""mergekit's `slices` and `modules` as models and rules: each slice is a rule for layers, over views of models.

A view is some layers of a model, with the numbers that they have in the result. The first slice also decides about what
comes before the layers (embeddings), the last one about what comes after them (norm, head).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from svc_dist.errors import RecipeError, Warned, warned
from svc_dist.methods.registry import METHODS
from svc_dist.recipe.mergekit.sliced import Module, Slice, Source, modules_of
from svc_dist.recipe.origin import KeyPath, Origin

#: Names of tensors that come before the layers: embeddings, but no head that is called one.
BEFORE_LAYERS = ("*embed[!_]*", "*embed_[!o]*", "*wte.*", "*wpe.*", "shared.weight", "*.shared.weight")
_View = tuple[str, int, int, int]


def without_slices(data: Mapping[str, Any], origin: Origin) -> tuple[Mapping[str, Any], Origin, list[Warned]]:
    """A recipe with models and rules in place of `slices` and `modules`, and warnings; another one as it is.

    The origin of the new one names the old keys. Raises RecipeError for slices that mean nothing.
    """
    used = [key for key in ("slices", "modules", "models") if data.get(key)]
    if not {"slices", "modules"} & set(data):
        return data, origin, []
    if len(used) != 1:
        what = f"this one has {' and '.join(used)}" if used else "here it is empty"
        key = used[0] if used else "slices" if "slices" in data else "modules"
        raise RecipeError(
            f"{origin.at(key)}: a recipe has one of models, slices and modules, but {what}",
            "give one of them",
            code="values-contradict",
        )
    one = _Translation({key: value for key, value in data.items() if key not in ("slices", "modules")}, origin)
    modules = modules_of(data, origin, one.warnings)
    modules = [replace(module, slices=tuple(map(one.with_base, module.slices))) for module in modules]
    if len(modules) == 1 and len(modules[0].slices) == 1 and one.is_plain(modules[0].slices[0]):
        one.as_models(modules[0])
    else:
        one.as_rules(modules)
    return one.data, replace(origin, written={**origin.written, **one.written}), one.warnings


@dataclass
class _Translation:
    """The recipe that takes the place of slices. ``written``: which of the old keys each of its keys comes from."""

    data: dict[str, Any]
    origin: Origin
    written: dict[KeyPath, KeyPath] = field(default_factory=dict)
    warnings: list[Warned] = field(default_factory=list)
    _names: dict[_View | str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._method = METHODS.get(str(self.data.get("merge_method")))
        self._policy = "origin" if self._method is None else self._method.base

    def base_of(self, one: Slice) -> str | None:
        """The base of a slice's merge; None where it has none, or it takes no part."""
        base = one.base or self.data.get("base_model")
        if base is None or (base not in one.models and self._policy in ("listed", "model", "none")):
            return None
        return str(base)

    def with_base(self, one: Slice) -> Slice:
        """The slice with its base among the sources: a merge of changes needs that."""
        base = self.base_of(one)
        if base is None or base in one.models or self._policy == "none":
            return one
        where = self.origin.at(*one.path)
        if len({source.layers for source in one.sources}) > 1:
            raise RecipeError(
                f"{where}: the base {base} is no source of this slice, whose sources have different layers",
                "list the base among the sources, with the layers that the others are compared with",
                code="base-missing",
            )
        most = None if self._method is None else self._method.experts[1]
        if self._method is not None and most is not None and most < len(one.sources):
            raise RecipeError(
                f"{where}: {self._method.name} merges {'one model' if most == 1 else f'{most} models'} with the base, "
                f"but {' and '.join(one.models)} are sources of this slice, and the base {base} is none",
                "name one of the sources as base_model",
                code="number-of-experts",
            )
        self.warnings.append(
            warned(
                "base-added",
                f"{where}: the base {base} is not among the sources, which mergekit refuses; svc_dist takes its layers "
                "of the same numbers as the base",
            )
        )
        return replace(one, sources=(*one.sources, Source(base, one.sources[0].layers, {}, one.path)))

    def is_plain(self, one: Slice) -> bool:
        """Whether a slice is a recipe of `models` and nothing else."""
        base = one.base or self.data.get("base_model")
        return base is None or base in one.models

    def as_models(self, module: Module) -> None:
        """One slice: its sources are the models."""
        (one,) = module.slices
        models = []
        for number, source in enumerate(one.sources):
            self.written["models", number] = source.path
            models.append({"model": source.model, **_layers_of(source, 0), "parameters": dict(source.parameters)})
        self.data["models"] = models
        for path, parameters in ((module.path, module.parameters), (one.path, one.parameters)):
            self.written |= {("parameters", key): (*path, "parameters", key) for key in parameters}
        self.data["parameters"] = stacked(one.parameters, module.parameters, self.data.get("parameters") or {})
        if one.base is not None:
            self.data["base_model"] = one.base
            self.written["base_model",] = (*one.path, "base_model")

    def as_rules(self, modules: Sequence[Module]) -> None:
        """A rule for the layers of each slice, and for what lies before and after them."""
        self.data["models"] = []
        rules: list[dict[str, Any]] = []
        own = list(self.data.get("rules") or ())
        towers = sorted(modules, key=lambda module: module.patterns is None)
        for module in reversed(towers):  # the language model's come first
            for one in module.slices:
                for source in one.sources:
                    self._name(source, one.at)
        for module in towers:
            ruled = module.slices if module.patterns is None else ()
            for one in ruled if any(each.layers for each in module.slices) else ():
                rules.append(self._rule(["*"], one, module, len(own) + len(rules)))
                rules[-1]["layer_range"] = [one.at, one.at + one.count]
            if len(ruled) > 1:
                rules.append(self._rule(list(BEFORE_LAYERS), module.slices[0], module, len(own) + len(rules)))
            rules.append(self._rule(list(module.patterns or "*"), module.slices[-1], module, len(own) + len(rules)))
        base = self.data.get("base_model")
        if base is not None and not any(entry["model"] == base for entry in self.data["models"]):
            self.data["models"].append({"model": base, "layer_range": [0, 0]})
        self.data["rules"] = [*own, *rules]

    def _rule(self, match: list[str], one: Slice, module: Module, number: int) -> dict[str, Any]:
        """A rule by which the sources of a slice are merged."""
        self.written["rules", number] = one.path
        models = []
        for position, source in enumerate(one.sources):
            self.written["rules", number, "models", position] = source.path
            models.append({"model": self._name(source, one.at), "parameters": dict(source.parameters)})
        rule: dict[str, Any] = {"match": match, "models": models}
        parameters = stacked(one.parameters, module.parameters)
        if parameters:
            rule["parameters"] = parameters
        base = self.base_of(one)
        if base is not None and self._policy != "none":
            rule["base_model"] = self._name(next(each for each in one.sources if each.model == base), one.at)
        return rule if match == ["*"] else {**rule, "optional": True}

    def _name(self, source: Source, at: int) -> str:
        """The name of the view of a source, which becomes one of the models."""
        first, last = source.layers or (0, 0)
        key = source.model if source.layers is None else (source.model, first, last, at)
        if source.layers is None:  # what lies in no layer of the language model is in every view of it
            views = [name for view, name in self._names.items() if isinstance(view, tuple) and view[0] == source.model]
            if views and key not in self._names:
                return views[0]
        if key not in self._names:
            self.written["models", len(self.data["models"])] = source.path
            name = source.model.rstrip("/").rpartition("/")[2]
            name += "" if source.layers is None else f"[{first}:{last}]"
            taken = set(self._names.values())
            if name in taken:
                name += f"@{at}"
            while name in taken:
                name += "'"
            self._names[key] = name
            self.data["models"].append({"model": source.model, "name": name, **_layers_of(source, at)})
        return self._names[key]


def _layers_of(source: Source, at: int) -> dict[str, Any]:
    return {} if source.layers is None else {"layer_range": list(source.layers), "at": at}


def stacked(*settings: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters of several places, those of the first first: where its conditions do not hold, the next place's do."""
    result: dict[str, Any] = {}
    for each in settings:
        for key, value in each.items():
            result[key] = _combined(result[key], value) if key in result else value
    return result


def _combined(first: Any, then: Any) -> Any:
    conditions = [first] if isinstance(first, Mapping) else first
    if not isinstance(conditions, list) or not all(isinstance(one, Mapping) for one in conditions):
        return first
    if any(one.get("filter") in (None, "*") for one in conditions):
        return first
    if isinstance(then, Mapping):
        return [*conditions, then]
    if isinstance(then, list) and any(isinstance(one, Mapping) for one in then):
        return [*conditions, *then]
    return [*conditions, {"value": then}]
