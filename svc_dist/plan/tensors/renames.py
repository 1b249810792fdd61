"""Prefixes and patterns of tensor names that a recipe replaces, in one model or in all."""

from __future__ import annotations

from collections.abc import Sequence

from svc_dist.checkpoint.adapters.adapter import OpenedModel
from svc_dist.errors import RecipeError
from svc_dist.recipe.resolved import ResolvedRecipe
from svc_dist.tensor_names import renamed as new_name

Prefixes = tuple[tuple[str, str], ...]


def renamed(recipe: ResolvedRecipe, models: Sequence[OpenedModel]) -> tuple[list[OpenedModel], list[Prefixes]]:
    """The opened models with their tensors renamed, and each model's pairs ``(from, to)``.

    A model's pairs come before the recipe's. Raises RecipeError for a pair that applies to no name, and where two
    tensors would have the same name.
    """
    used: set[str] = set()
    all_prefixes: list[Prefixes] = []
    for source, model in zip(recipe.models, models, strict=True):
        renames = (*source.renames, *recipe.renames)
        all_prefixes.append(tuple((rename.old, rename.new) for rename in renames))
        for name in model.tensors if renames else ():
            used |= {renames[number].where for number in new_name(name, all_prefixes[-1])[1]}
    renames_of = [(rename, models[0]) for rename in recipe.renames]
    renames_of += [(rename, model) for one, model in zip(recipe.models, models, strict=True) for rename in one.renames]
    for rename, model in renames_of:
        if rename.where not in used:
            raise RecipeError(
                f"{rename.where}: no tensor's name {_what(rename.old)}",
                f"names are like {next(iter(model.tensors))!r}; `*` stands for any text" if model.tensors else None,
                code="rename-matches-nothing",
            )
    return [model.renamed(prefixes) for model, prefixes in zip(models, all_prefixes, strict=True)], all_prefixes


def _what(old: str) -> str:
    if "*" in old:
        return "matches this pattern, as a whole"
    return "starts with this prefix, or another prefix before it takes them"
