"""A model as some of its layers, with the numbers that these have in a merge."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from msgspec import structs

from svc_dist.checkpoint.adapters.adapter import OpenedModel
from svc_dist.checkpoint.checkpoint import Checkpoint
from svc_dist.checkpoint.header import TensorSpec
from svc_dist.errors import RecipeError, printable
from svc_dist.recipe.resolved import ResolvedRecipe
from svc_dist.sizes import counted
from svc_dist.tensor_names import LayerRange, layer_of

Value = TypeVar("Value")

#: Words in the names of stacks that are no language model's.
_OTHER_STACKS = re.compile(
    r"vis(?:ion|ual)|image|audio|speech|talker|code_predictor|projector|resampler|qformer|perceiver|(?:^|\.)mtp(?:\.|$)"
)
#: The keys of configs that say how many layers the language model has.
DEPTHS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_decoder_layers", "decoder_layers")
#: Sections of a config with the language model.
TEXT_SECTIONS = ("text_config", "llm_config", "language_config", "thinker_config")


def with_layers(
    recipe: ResolvedRecipe, models: Sequence[OpenedModel]
) -> tuple[list[OpenedModel], list[LayerRange | None]]:
    """The opened models (the base first) as the layers that the recipe takes of each, and these; None for all of them.

    Raises RecipeError for layers that a model does not have.
    """
    viewed: list[OpenedModel] = []
    taken: list[LayerRange | None] = []
    for source, model in zip(recipe.models, models, strict=True):
        layers, view = source.layers, model
        if layers is not None:
            where = recipe.origin.at("models", source.position or 0, "layer_range")
            view = _viewed(model, layers, where)
        viewed.append(view)
        taken.append(None if view is model else layers)
    return viewed, taken


def view_of(model: Checkpoint, layers: LayerRange | None) -> Checkpoint:
    """A checkpoint as these layers of it; what lies in no layer stays."""
    stack = None if layers is None else language_stack(model.tensors, model.location)
    if layers is None or stack is None or is_whole(model, layers):
        return model
    return _layers_of(model, stack, layers)


def is_whole(model: Checkpoint, layers: LayerRange) -> bool:
    """Whether these are all layers of a model, with their own numbers."""
    return layers.first == layers.at == 0 and layers.last == depth(model)


def depth(model: Checkpoint) -> int:
    """How many layers the language model has: by its config, else by its tensors."""
    counts = [section[key] for section in text_sections(model.config) for key in DEPTHS if key in section]
    known = next((count for count in counts if type(count) is int), None)
    stack = language_stack(model.tensors, model.location)
    stored = max((found[1] + 1 for name in model.tensors if (found := layer_of(name)) and found[0] == stack), default=0)
    return min(known, stored) if known is not None else stored


def text_sections(config: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    """The sections of a config that are about its language model, the innermost first."""
    sections: list[Mapping[str, Any]] = []
    section = config
    while isinstance(section, Mapping):
        sections.insert(0, section)
        section = next((section[key] for key in TEXT_SECTIONS if isinstance(section.get(key), Mapping)), None)
    return sections


def language_stack(names: Iterable[str], location: str) -> str | None:
    """The stack of layers of the language model, like ``model.layers``; None where there is none.

    Raises RecipeError where there are several.
    """
    stacks = list(dict.fromkeys(found[0] for name in names if (found := layer_of(name)) is not None))
    if len(stacks) > 1:
        stacks = [stack for stack in stacks if _OTHER_STACKS.search(stack) is None]
    if len(stacks) > 1:
        raise RecipeError(
            f"{location}: it has several stacks of layers ({', '.join(map(printable, stacks))}), so that a range of "
            "layers means several things",
            "list whole models under `models`",
            code="layers-ambiguous",
        )
    return stacks[0] if stacks else None


def _viewed(model: OpenedModel, layers: LayerRange, where: str) -> OpenedModel:
    whole, adapter = model.model, model.adapter
    if whole is None:
        raise RecipeError(
            f"{where}: {model.location} is an adapter, which has no layers of its own",
            "name it with the model that it belongs to: model+adapter",
            code="base-not-whole",
        )
    count = depth(whole)
    if layers.last > count:
        raise RecipeError(
            f"{where}: layers {layers.first} to {layers.last - 1} of {whole.location}, which has "
            f"{counted(count, 'layer')}",
            "layer_range is [first, after the last], from 0",
            code="layers-missing",
        )
    stack = language_stack(whole.tensors, whole.location)
    if stack is None or is_whole(whole, layers):
        return model
    if adapter is not None:
        adapter = replace(
            adapter, pairs=_renumbered(adapter.pairs, stack, layers), saved=_specs(adapter.saved, stack, layers)
        )
    return OpenedModel(model.location, _layers_of(whole, stack, layers), adapter)


def _layers_of(model: Checkpoint, stack: str, layers: LayerRange) -> Checkpoint:
    unneeded = _renumbered(dict.fromkeys(model.unneeded), stack, layers)
    return replace(model, tensors=_specs(model.tensors, stack, layers), unneeded=tuple(unneeded))


def _specs(tensors: Mapping[str, TensorSpec], stack: str, layers: LayerRange) -> dict[str, TensorSpec]:
    return {name: structs.replace(spec, name=name) for name, spec in _renumbered(tensors, stack, layers).items()}


def _renumbered(named: Mapping[str, Value], stack: str, layers: LayerRange) -> dict[str, Value]:
    """What lies in these layers of a stack, under its new names, and what lies in no layer of it."""
    result: dict[str, Value] = {}
    for name, value in named.items():
        found = layer_of(name)
        if found is None or found[0] != stack:
            result[name] = value
        elif layers.first <= found[1] < layers.last:
            result[f"{stack}.{found[1] - layers.first + layers.at}{found[2]}"] = value
    return result
