"""The files beside an adapter's weights: its configuration, and the tokenizer that an expert has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from svc_dist.checkpoint.tokenizer import is_tokenizer_file
from svc_dist.checkpoint.weight_files import ADAPTER
from svc_dist.plan.files.sidecars import Sidecar, planned_files
from svc_dist.plan.inputs import PlannedModel
from svc_dist.recipe.resolved import ResolvedRecipe
from svc_dist.storage.open import open_storage


def adapter_sidecars(recipe: ResolvedRecipe, models: Sequence[PlannedModel]) -> tuple[Sidecar, ...]:
    """The sidecars of an adapter. ``models``: the base first.

    The tokenizer is that of the model that the recipe names, else of the first adapter with one: PEFT finds the base's
    where the base is. Raises DamagedInputError, StorageError.
    """
    named, other = recipe.tokenizer.source, recipe.tokenizer.other
    adapters = [number for number, model in enumerate(models) if number and ADAPTER.index in _names(model)]
    copied: list[Sidecar] = []
    for number in adapters if named is None else [named]:
        storage = open_storage(other or models[number].location, recipe.access)
        names = [name for name in storage.names() if is_tokenizer_file(name) and not name.startswith(".")]
        planned = planned_files(storage, names, 0 if other else number)
        copied = [replace(one, elsewhere=other) for one in planned if isinstance(one, Sidecar)]
        if copied:
            break
    configuration = Sidecar(ADAPTER.index, 0, None, "adapter", False, None, None, False, None)
    return tuple(sorted([*copied, configuration], key=lambda one: one.name))


def _names(model: PlannedModel) -> set[str]:
    return {file.name for file in model.files}
