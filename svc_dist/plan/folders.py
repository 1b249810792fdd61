"""The folders of a recipe's models: a path that does not exist is the recipe's error, with its line."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from svc_dist.checkpoint.foreign import missing_folder
from svc_dist.errors import StorageError
from svc_dist.recipe.resolved import ResolvedRecipe
from svc_dist.storage.open import open_storage, split_location


def require_folders(recipe: ResolvedRecipe) -> None:
    """Raise RecipeError, with the recipe's line and names like it, for a model's path where no folder is."""
    for number, model in enumerate(recipe.models):
        where = _line(recipe, number)
        for location in filter(None, split_location(model.location, recipe.access)):
            error = missing_folder(open_storage(location, recipe.access), where)
            if error is not None:
                raise error
    if recipe.tokenizer.other is not None:
        error = missing_folder(open_storage(recipe.tokenizer.other, recipe.access), recipe.tokenizer.where)
        if error is not None:
            raise error


@contextlib.contextmanager
def line_of(recipe: ResolvedRecipe, number: int) -> Iterator[None]:
    """Have errors of a storage say where the recipe names the model of this number that is opened."""
    try:
        yield
    except StorageError as error:
        raise type(error)(f"{_line(recipe, number)}: {error.message}", error.hint, code=error.code) from None


def _line(recipe: ResolvedRecipe, number: int) -> str:
    """The recipe's line for a model, by its number in ``models``: 0 is the base."""
    position = recipe.models[number].position
    if position is None or (number == 0 and recipe.has_base_model):
        return recipe.origin.at("base_model")
    return recipe.origin.at("models", position, "model")
