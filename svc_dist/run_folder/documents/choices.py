"""What ``auto`` chose for the run that merges resume, which they keep while its inputs are the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from svc_dist.methods.auto.choice import AutoChoice
from svc_dist.plan.inputs import PlannedModel
from svc_dist.recipe.documents import ResolvedDocument
from svc_dist.recipe.resolved import ResolvedRecipe
from svc_dist.run_folder.documents.records import document_output, recorded_documents
from svc_dist.run_folder.output import Output
from svc_dist.run_folder.published import recorded_run


class Chosen(Protocol):
    """A plan, a report or a record of a merge: what was chosen, and for which models."""

    @property
    def auto(self) -> AutoChoice | None: ...
    @property
    def models(self) -> tuple[PlannedModel, ...]: ...


def with_recorded_choice(recipe: ResolvedRecipe, output: Output) -> ResolvedRecipe:
    """The recipe with what ``auto`` chose for the run in an output, unfinished or finished."""
    return recipe if recipe.auto is None else _with(recipe, recorded_run(output))


def with_recorded_choices(documents: Sequence[ResolvedDocument], whole: Output) -> list[ResolvedDocument]:
    """The same for the recipes of several documents. ``whole``: where all of them are merged."""
    if all(document.recipe.auto is None for document in documents):
        return list(documents)
    records = {one.name: one for one in recorded_documents(whole) or ()}
    chosen = []
    for document in documents:
        earlier: Chosen | None = records.get(document.name)
        if earlier is None and document.result and document.recipe.auto is not None:
            earlier = recorded_run(document_output(whole, document.name, True))
        chosen.append(replace(document, recipe=_with(document.recipe, earlier)))
    return chosen


def _with(recipe: ResolvedRecipe, earlier: Chosen | None) -> ResolvedRecipe:
    if recipe.auto is None or earlier is None or earlier.auto is None:
        return recipe
    return replace(recipe, auto=replace(recipe.auto, recorded=(earlier.auto, earlier.models)))
