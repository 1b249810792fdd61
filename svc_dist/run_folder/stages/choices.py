"""What ``auto`` chose for the run that merges resume, which they keep while its inputs are the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from svc_dist.methods.auto.choice import AutoChoice
from svc_dist.plan.inputs import PlannedModel
from svc_dist.recipe.documents import Stage
from svc_dist.recipe.resolved import ResolvedRecipe
from svc_dist.run_folder.output import Output
from svc_dist.run_folder.published import recorded_run
from svc_dist.run_folder.stages.records import read_stages, stage_output


class Chosen(Protocol):
    """A plan, a report or a record of a merge: what was chosen, and for which models."""

    @property
    def auto(self) -> AutoChoice | None: ...
    @property
    def models(self) -> tuple[PlannedModel, ...]: ...


def with_recorded_choice(recipe: ResolvedRecipe, output: Output) -> ResolvedRecipe:
    """The recipe with what ``auto`` chose for the run in an output, unfinished or finished."""
    return recipe if recipe.auto is None else _with(recipe, recorded_run(output))


def with_recorded_choices(stages: Sequence[Stage], whole: Output) -> list[Stage]:
    """The same for the recipes of several documents. ``whole``: where all of them are merged."""
    if all(stage.recipe.auto is None for stage in stages):
        return list(stages)
    records = {one.name: one for one in read_stages(whole) or ()}
    chosen = []
    for stage in stages:
        earlier: Chosen | None = records.get(stage.name)
        if earlier is None and stage.result and stage.recipe.auto is not None:
            earlier = recorded_run(stage_output(whole, stage.name, True))
        chosen.append(replace(stage, recipe=_with(stage.recipe, earlier)))
    return chosen


def _with(recipe: ResolvedRecipe, earlier: Chosen | None) -> ResolvedRecipe:
    if recipe.auto is None or earlier is None or earlier.auto is None:
        return recipe
    return replace(recipe, auto=replace(recipe.auto, recorded=(earlier.auto, earlier.models)))
