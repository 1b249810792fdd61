"""Prefixes of tensor names that a recipe replaces, in one model or in all."""

from __future__ import annotations

from collections.abc import Sequence

from svc_dist.checkpoint.adapters.adapter import OpenedModel
from svc_dist.errors import RecipeError
from svc_dist.recipe.resolved import ResolvedRecipe

Prefixes = tuple[tuple[str, str], ...]


def renamed(recipe: ResolvedRecipe, models: Sequence[OpenedModel]) -> tuple[list[OpenedModel], list[Prefixes]]:
    """The opened models with their tensors renamed, and each model's prefixes ``(from, to)``.

    A model's prefixes come before the recipe's; the first that matches a name counts. Raises RecipeError for a prefix
    with which no name starts, and where two tensors would have the same name.
    """
    used: set[str] = set()
    all_prefixes: list[Prefixes] = []
    for source, model in zip(recipe.models, models, strict=True):
        renames = (*source.renames, *recipe.renames)
        all_prefixes.append(tuple((rename.old, rename.new) for rename in renames))
        for name in model.tensors if renames else ():
            used |= {next((rename.where for rename in renames if name.startswith(rename.old)), "")}
    renames_of = [(rename, models[0]) for rename in recipe.renames]
    renames_of += [(rename, model) for one, model in zip(recipe.models, models, strict=True) for rename in one.renames]
    for rename, model in renames_of:
        if rename.where not in used:
            raise RecipeError(
                f"{rename.where}: no tensor's name starts with this prefix, or another prefix before it takes them",
                f"names are like {next(iter(model.tensors))!r}" if model.tensors else None,
            )
    return [model.renamed(prefixes) for model, prefixes in zip(models, all_prefixes, strict=True)], all_prefixes
