"""A recipe's models that are named by a hub id, at the locations where they are read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from svc_dist.plan.inputs import PlannedModel, every_location
from svc_dist.recipe.resolved import ResolvedRecipe
from svc_dist.storage.hub.locate import locate
from svc_dist.storage.local import is_folder, is_there


def located(recipe: ResolvedRecipe, recorded: Sequence[PlannedModel] = ()) -> ResolvedRecipe:
    """The recipe with each hub id at its location: a folder of that name, a snapshot in the local cache, or the hub.

    ``recorded``: the models of a run that this recipe resumes: what it read from a snapshot or commit comes from the
    same one, wherever the branch points by now. A recipe that is located already stays as it is. Raises RecipeError,
    StorageError.
    """
    before = {model.hub: model.location for model in every_location(recorded) if model.hub is not None}
    moved, hub_models = {}, {}
    for path, (hub_id, where) in recipe.hub_ids.items():
        if is_there(path):
            continue
        location = before.get(str(hub_id), "")
        if not location.startswith("hf://") and not (location and is_folder(location)):
            location = locate(hub_id, Path(path), recipe.access, where, tokenizer=path == recipe.tokenizer.other)
        moved[path], hub_models[location] = location, str(hub_id)
    return replace(recipe.moved(moved), hub_ids={}, hub_models={**recipe.hub_models, **hub_models})
