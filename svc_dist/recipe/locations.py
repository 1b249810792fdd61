"""The models of a recipe: their locations and their names."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from svc_dist.checkpoint.adapters.adapter import Use
from svc_dist.errors import RecipeError
from svc_dist.recipe.origin import Origin, nearest
from svc_dist.recipe.schema import ModelEntry, Recipe, RenameEntry
from svc_dist.storage.access import Access
from svc_dist.storage.base import trimmed
from svc_dist.storage.hub.cache import HubId, parse_hub_id
from svc_dist.storage.open import require_known, split_location
from svc_dist.storage.secrets import redact, refuse_credentials
from svc_dist.tensor_names import LayerRange

#: By path: the hub id that it means where it does not exist, and where the recipe names it.
HubIds = Mapping[str, tuple[HubId, str]]


@dataclass(frozen=True)
class Rename:
    """A prefix of tensor names and its replacement. ``where``: its line in the recipe, for messages."""

    old: str
    new: str
    where: str = field(default="", compare=False)


@dataclass(frozen=True)
class RecipeModel:
    """The base or an expert: an absolute path, a URL, or two of them as ``model+adapter``. An adapter alone is one to
    the base, with the adapter that this may have.

    ``position``: its number under ``models``; None for a base that is not listed there. ``names``: those by which the
    recipe may refer to it. ``renames``: prefixes that the recipe replaces in this model alone. ``use``: which is meant
    of a model and an adapter in one folder. ``layers``: those that are used of it, None for all.
    """

    location: str
    position: int | None
    names: tuple[str, ...] = field(default=(), compare=False)
    renames: tuple[Rename, ...] = ()
    use: Use | None = None
    layers: LayerRange | None = None


def resolve_models(
    recipe: Recipe, origin: Origin, folder: Path, access: Access, alone: bool = False
) -> tuple[RecipeModel, ...]:
    """The base, then the experts in order. Paths are relative to ``folder``. ``alone``: there may be one model only.

    Raises RecipeError.
    """
    refuse_credentials(recipe.base_model or "", origin.at("base_model"))
    require_known(recipe.base_model or "", origin.at("base_model"))
    for index, entry in enumerate(recipe.models):
        for location in (entry.model, *entry.model.split("+")):
            refuse_credentials(location, origin.at("models", index, "model"))
        for location in (entry.model,) if "+" not in entry.model else entry.model.split("+"):
            require_known(location, origin.at("models", index, "model"))
    written = recipe.base_model or recipe.models[0].model
    base = _location(written, None, folder, access)
    models = [RecipeModel(base, None, (written, _last_part(written)))]
    for index, entry in enumerate(recipe.models):
        layers = _layers(entry, origin.at("models", index, "layer_range"))
        whole = absolute(entry.model, folder)
        location = _location(entry.model, base if layers is None else None, folder, access)
        known = next((model for model in models if model.location == location), None)
        if known is not None and known.position is not None and layers is not None:
            known = next((model for model in models if (model.location, model.layers) == (location, layers)), None)
        if known is not None and known.position is not None:
            raise RecipeError(
                f"{origin.at('models', index, 'model')}: {location} is listed twice",
                "remove one of them; mergekit refuses this, too",
                code="model-listed-twice",
            )
        names = (entry.model, _last_part(entry.model), *([entry.name] if entry.name else []))
        renames = resolve_renames(entry.rename, origin, "models", index, "rename")
        if known is not None:
            if entry.use == "adapter":
                raise RecipeError(
                    f"{origin.at('models', index, 'use')}: the base must be a whole model", code="base-not-whole"
                )
            models[0] = RecipeModel(base, index, (*known.names, *names), renames, layers=layers)
        else:
            if entry.use is not None and location != whole:
                raise RecipeError(
                    f"{origin.at('models', index, 'use')}: model+adapter already says which is meant",
                    "remove `use`",
                    code="values-contradict",
                )
            models.append(RecipeModel(location, index, names, renames, entry.use, layers))
    if len(models) == 1 and not alone:
        raise RecipeError(f"{origin.at('models')}: no expert besides the base", code="no-expert")
    return tuple(models)


def hub_ids(recipe: Recipe, origin: Origin, folder: Path) -> HubIds:
    """The hub ids that paths of models and adapters mean where they do not exist."""
    named = {origin.at("base_model"): recipe.base_model or ""}
    named |= {origin.at("models", index, "model"): entry.model for index, entry in enumerate(recipe.models)}
    named[origin.at("tokenizer_source")] = recipe.tokenizer_source or ""
    named[origin.at("tokenizer", "source")] = "" if recipe.tokenizer is None else recipe.tokenizer.source or ""
    named = {where: text.removeprefix("model:") for where, text in named.items()}
    parts = [(part, where) for where, text in named.items() for part in (text, *text.split("+"))]
    ids = [(part, parse_hub_id(part), where) for part, where in reversed(parts)]  # the first line of each counts
    return {absolute(part, folder): (hub_id, where) for part, hub_id, where in ids if hub_id is not None}


def resolve_renames(keys: Sequence[RenameEntry], origin: Origin, *path: str | int) -> tuple[Rename, ...]:
    """The entries of the ``rename`` at ``path``."""
    return tuple(Rename(entry.old, entry.new, origin.at(*path, n)) for n, entry in enumerate(keys))


def model_number(name: str, models: Sequence[RecipeModel], where: str) -> int:
    """The number (0: the base) of the model that a recipe calls ``name`` at ``where``.

    A recipe refers to a model by its ``name``, by its path or URL as written, or by the last component of that, and to
    the base by ``base``. Raises RecipeError where not exactly one model has the name.
    """
    if name == "base":
        return 0
    numbers = [number for number, model in enumerate(models) if name in model.names]
    if not numbers:
        known = {"base", *(_last_part(text) for model in models for text in model.names)}
        raise RecipeError(
            f"{where}: no model is called '{redact(name)}'", nearest(name, sorted(known)), code="unknown-model"
        )
    if len(numbers) > 1 and len({models[number].location for number in numbers}) > 1:
        first, second = (models[number].location for number in numbers[:2])
        raise RecipeError(
            f"{where}: '{redact(name)}' is ambiguous: {first} or {second}",
            "write the path as under models, or give the models a `name`",
            code="ambiguous-model",
        )
    return numbers[0]


def _layers(entry: ModelEntry, where: str) -> LayerRange | None:
    """The layers that an entry names."""
    if entry.layer_range is None:
        if entry.at is not None:
            raise RecipeError(
                f"{where}: `at` needs a layer_range",
                "write layer_range: [first, after the last]",
                code="values-contradict",
            )
        return None
    first, last = entry.layer_range
    return LayerRange(first, last, first if entry.at is None else entry.at)


def _location(text: str, base: str | None, folder: Path, access: Access) -> str:
    """The location, for ``model+adapter`` of both; for an adapter to the base, of the adapter alone."""
    model, adapter = split_location(text, access, lambda part: absolute(part, folder))
    if adapter is None:
        return model
    return adapter if model == base else f"{model}+{adapter}"


def absolute(text: str, folder: Path) -> str:
    """A URL without trailing slashes, or an absolute path."""
    return trimmed(text) if "://" in text else os.path.normpath(folder / os.path.expanduser(text))  # noqa: PTH111  (pathlib's raises for an unknown user)


def _last_part(text: str) -> str:
    """The name of the folder or repository, without a revision."""
    last = text.rstrip("/").rpartition("/")[2]
    return last.partition("@")[0] if text.startswith("hf://") or parse_hub_id(text) is not None else last
