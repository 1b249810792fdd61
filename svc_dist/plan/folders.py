"""The folders of a recipe's models: a path that does not exist is the recipe's error, with its line."""

from __future__ import annotations

from svc_dist.checkpoint.foreign import missing_folder
from svc_dist.recipe.resolved import ResolvedRecipe
from svc_dist.storage.open import open_storage, split_location


def require_folders(recipe: ResolvedRecipe) -> None:
    """Raise RecipeError, with the recipe's line and names like it, for a model's path where no folder is."""
    for number, model in enumerate(recipe.models):
        named = ("models", model.position, "model") if model.position is not None else ("base_model",)
        where = recipe.origin.at(*named) if number or not recipe.has_base_model else recipe.origin.at("base_model")
        for location in filter(None, split_location(model.location, recipe.access)):
            error = missing_folder(open_storage(location, recipe.access), where)
            if error is not None:
                raise error
    if recipe.tokenizer.other is not None:
        error = missing_folder(open_storage(recipe.tokenizer.other, recipe.access), recipe.tokenizer.where)
        if error is not None:
            raise error
