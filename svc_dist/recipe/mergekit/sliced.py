"""The slices of a mergekit recipe as they are written: what each takes of which model, and what makes no sense."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from svc_dist.errors import RecipeError, Warned, warned
from svc_dist.recipe.origin import KeyPath, Origin

#: The tensors of the modules that mergekit's architectures have beside the language model.
_TOWERS: dict[str, tuple[str, ...]] = {
    "multi_modal_projector": ("*multi_modal_projector.*", "*visual.merger*", "*visual.deepstack_merger_list*"),
    "vision_tower": ("*visual.*", "*vision_tower.*", "*vision_model.*"),
    "vision_model": ("*vision_model.*", "*vision_tower.*", "*visual.*"),
    "encoder": ("encoder.*", "*.encoder.*"),
    "shared": ("shared.weight", "lm_head.weight"),
}
#: The names of modules with the language model, or with all of a model.
_LANGUAGE = ("default", "text_decoder", "decoder")


@dataclass(frozen=True)
class Source:
    """One source of a slice: layers ``[first, after the last]`` of a model; None for the whole model."""

    model: str
    layers: tuple[int, int] | None
    parameters: Mapping[str, Any]
    path: KeyPath


@dataclass(frozen=True)
class Slice:
    """Sources that are merged into the layers of the result from ``at`` on, over a base if the slice names one."""

    sources: tuple[Source, ...]
    at: int
    base: str | None
    parameters: Mapping[str, Any]
    path: KeyPath

    @property
    def layers(self) -> tuple[int, int] | None:
        """Those of the first source."""
        return self.sources[0].layers

    @property
    def count(self) -> int:
        return 0 if self.layers is None else self.layers[1] - self.layers[0]

    @property
    def models(self) -> list[str]:
        return [source.model for source in self.sources]


@dataclass(frozen=True)
class Module:
    """A part of the architecture: the tensors of these names, None for the language model and the rest."""

    patterns: tuple[str, ...] | None
    slices: tuple[Slice, ...]
    parameters: Mapping[str, Any]
    path: KeyPath


def modules_of(data: Mapping[str, Any], origin: Origin, warnings: list[Warned]) -> list[Module]:
    """The modules of a recipe; its `slices` are those of the one that is the whole model. Raises RecipeError."""
    if data.get("slices"):
        return [Module(None, tuple(_slices(data["slices"], ("slices",), origin, warnings)), {}, ())]
    given = _mapping(data["modules"], ("modules",), origin)
    modules: list[Module] = []
    for name, module in given.items():
        path: KeyPath = ("modules", name)
        patterns = None if name in _LANGUAGE else _TOWERS.get(name, (f"{name}*",))
        keys = [key for key in ("slices", "models") if _mapping(module, path, origin).get(key)]
        if len(keys) != 1:
            raise RecipeError(
                f"{origin.at(*path)}: a module has either models or slices",
                "give one of them",
                code="values-contradict",
            )
        if keys == ["models"]:
            sources = _sources(module["models"], (*path, "models"), origin, whole=True)
            slices = [Slice(sources, 0, None, {}, path)]
        else:
            slices = list(_slices(module["slices"], (*path, "slices"), origin, warnings))
        if patterns is not None:
            slices = [_whole(slices, origin)]
        modules.append(Module(patterns, tuple(slices), _parameters(module, path, origin), path))
    if sum(module.patterns is None for module in modules) > 1:
        raise RecipeError(
            f"{origin.at('modules')}: {' and '.join(name for name in given if name in _LANGUAGE)} are the same part",
            "give one of them",
            code="values-contradict",
        )
    return modules


def _whole(slices: list[Slice], origin: Origin) -> Slice:
    """The one slice of a module that is no language model, as whole models."""
    one = slices[0]
    if len(slices) > 1 or any(source.layers and source.layers[0] for source in one.sources):
        raise RecipeError(
            f"{origin.at(*one.path)}: svc_dist assembles layers of the language model only",
            "write this module with `models`",
            code="layers-of-tower",
        )
    return Slice(
        tuple(Source(each.model, None, each.parameters, each.path) for each in one.sources),
        0, one.base, one.parameters, one.path,
    )  # fmt: skip


def _slices(given: Any, path: KeyPath, origin: Origin, warnings: list[Warned]) -> Iterator[Slice]:
    at = 0
    for number, one in enumerate(_listed(given, path, origin)):
        where = (*path, number)
        if "sources" not in _mapping(one, where, origin):
            raise RecipeError(f"{origin.at(*where)}: the key 'sources' is missing", code="key-missing")
        sources = _sources(one["sources"], (*where, "sources"), origin)
        made = Slice(sources, at, one.get("base_model"), _parameters(one, where, origin), where)
        counts = [source.layers[1] - source.layers[0] for source in sources if source.layers]
        if len(set(counts)) > 1:
            raise RecipeError(
                f"{origin.at(*where)}: its sources have {' and '.join(map(str, counts))} layers",
                "all sources of a slice have equally many layers",
                code="slice-uneven",
            )
        if len({source.layers for source in sources}) > 1:
            listed = " with ".join(f"{_span(source)} of {source.model}" for source in sources)
            warnings.append(
                warned(
                    "slice-averages-depths",
                    f"{origin.at(*where)}: merges {listed} into {counts[0]} layers of the result, as mergekit does; to "
                    "stack layers, give each range a slice of its own",
                )
            )
        yield made
        at += made.count


def _sources(given: Any, path: KeyPath, origin: Origin, whole: bool = False) -> tuple[Source, ...]:
    sources: list[Source] = []
    for number, one in enumerate(_listed(given, path, origin)):
        where = (*path, number)
        for key in ("model",) if whole else ("model", "layer_range"):
            if key not in _mapping(one, where, origin):
                raise RecipeError(f"{origin.at(*where)}: the key '{key}' is missing", code="key-missing")
        model = one["model"]
        if not isinstance(model, str):
            raise RecipeError(f"{origin.at(*where, 'model')}: {model!r} must be text", code="value-not-allowed")
        if model in [source.model for source in sources]:
            raise RecipeError(
                f"{origin.at(*where, 'model')}: {model} is listed twice in this slice, which mergekit refuses as well",
                "to stack layers of one model, give each range a slice of its own",
                code="slice-repeats-model",
            )
        layers = None if whole else _range(one["layer_range"], (*where, "layer_range"), origin)
        sources.append(Source(model, layers, _parameters(one, where, origin), where))
    return tuple(sources)


def _range(given: Any, path: KeyPath, origin: Origin) -> tuple[int, int]:
    numbers = given if isinstance(given, list | tuple) and len(given) == 2 else (None, None)
    first, last = numbers
    if type(first) is not int or type(last) is not int or not 0 <= first < last:
        raise RecipeError(
            f"{origin.at(*path)}: {given!r} is no range of layers",
            "write [first, after the last], from 0: [0, 16] are the first 16 layers",
            code="value-not-allowed",
        )
    return first, last


def _span(source: Source) -> str:
    first, last = source.layers or (0, 0)
    return f"layers {first} to {last - 1}"


def _parameters(owner: Mapping[str, Any], path: KeyPath, origin: Origin) -> Mapping[str, Any]:
    given = owner.get("parameters")
    return {} if given is None else _mapping(given, (*path, "parameters"), origin)


def _mapping(given: Any, path: KeyPath, origin: Origin) -> Mapping[str, Any]:
    if not isinstance(given, Mapping):
        raise RecipeError(
            f"{origin.at(*path)}: {given!r} must be a mapping of keys to values", code="value-not-allowed"
        )
    return given


def _listed(given: Any, path: KeyPath, origin: Origin) -> list[Any]:
    if not isinstance(given, list) or not given:
        raise RecipeError(f"{origin.at(*path)}: {given!r} must be a list", code="value-not-allowed")
    return given
