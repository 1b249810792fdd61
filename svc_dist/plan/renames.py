"""Tensors told under other names: prefixes that a recipe replaces, of one model or of all."""

from __future__ import annotations

from collections.abc import Sequence

from svc_dist.checkpoint.adapter import Opened
from svc_dist.errors import RecipeError
from svc_dist.recipe.schema import Recipe

Prefixes = tuple[tuple[str, str], ...]


def renamed(recipe: Recipe, locations: Sequence[str], models: Sequence[Opened]) -> tuple[list[Opened], list[Prefixes]]:
    """The models (of these ``locations`` in the recipe) under the names of the merge, and each one's prefixes.

    A model's own prefixes ``(from, to)`` come before the recipe's; the first that fits a name counts. Raises
    RecipeError for a prefix that no name begins with, and where two tensors would have one name.
    """
    entries = {recipe.location(entry.model): number for number, entry in enumerate(recipe.models)}
    places: list[tuple[str | int, ...]] = [("rename", n) for n in range(len(recipe.rename))]
    places += [("models", m, "rename", n) for m, entry in enumerate(recipe.models) for n in range(len(entry.rename))]
    used: set[tuple[str | int, ...]] = set()
    all_prefixes: list[Prefixes] = []
    for location, model in zip(locations, models, strict=True):
        number = entries.get(location)
        own = [] if number is None else recipe.models[number].rename
        prefixes = tuple((rename.old, rename.new) for rename in (*own, *recipe.rename))
        all_prefixes.append(prefixes)
        for name in model.tensors if prefixes else ():
            first = next((n for n, (old, _) in enumerate(prefixes) if name.startswith(old)), None)
            if first is not None:
                used.add(
                    ("rename", first - len(own)) if first >= len(own) else ("models", number or 0, "rename", first)
                )
    for place in places:
        if place not in used:
            names = list(models[0 if place[0] == "rename" else locations.index(_location(recipe, place))].tensors)
            raise RecipeError(
                f"{recipe.where(*place)}: no tensor's name begins so, or another prefix before it takes them",
                f"names are like {names[0]!r}" if names else None,
            )
    return [model.renamed(prefixes) for model, prefixes in zip(models, all_prefixes, strict=True)], all_prefixes


def _location(recipe: Recipe, place: Sequence[str | int]) -> str:
    return recipe.location(recipe.models[int(place[1])].model)
