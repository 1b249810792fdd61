"""A merge of state dicts: a plan whose inputs and whose result are in memory."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from torch import Tensor

from svc_dist.errors import RecipeError, require_count
from svc_dist.plan.make import make_plan
from svc_dist.plan.model import Unit
from svc_dist.plan.settings import SettingsRequest
from svc_dist.recipe.edits.given_models import location_of
from svc_dist.recipe.resolved import ResolvedRecipe
from svc_dist.run.host import settings_here
from svc_dist.run.memory.state_files import StateFiles
from svc_dist.run.memory.tensor_sink import TensorSink
from svc_dist.run.process import set_up_for_units
from svc_dist.run.unit import run_unit
from svc_dist.storage.reading import Source

_log = logging.getLogger("svc_dist")


def merge_in_memory(
    recipe: ResolvedRecipe,
    base: Mapping[str, Tensor] | None,
    experts: Mapping[str, Mapping[str, Tensor]],
    settings: SettingsRequest,
    *,
    config: Mapping[str, Any] | None = None,
    slots: int = 1,
    scratch: str | None = None,
) -> dict[str, Tensor]:
    """Merge state dicts by a recipe whose models are at ``location_of`` their names. See ``api.merge_state_dicts``."""
    require_count("slots", slots)
    if recipe.results[0].path or recipe.output == "adapter":
        key = "outputs" if recipe.results[0].path else "output"
        raise RecipeError(
            f"{recipe.origin.at(key)}: merge_state_dicts makes one model",
            "take the key out; call it once for each result, or merge files" if key == "outputs" else "take it out",
            code="in-memory-refused",
        )
    given: list[tuple[str | None, Mapping[str, Tensor]]] = [*experts.items()]
    if base is not None:
        given.insert(0, (None, base))
    states = {
        location_of(name): StateFiles(
            location_of(name), state, "base" if name is None else f"experts[{name!r}]", config, recipe.access
        )
        for name, state in given
    }
    recipe = replace(recipe, access=replace(recipe.access, models=states))
    plan = make_plan(recipe, settings_here(settings, None))
    for warning in plan.warnings:
        _log.warning(warning)
    sink = TensorSink(plan, base if base is not None else next(iter(experts.values())))
    sources = [Source(model.location, model.files, recipe.access) for model in plan.inputs]

    def run(unit: Unit) -> None:
        with set_up_for_units(plan.settings):
            run_unit(plan, unit, sources, sink, scratch)

    with set_up_for_units(plan.settings):
        pool = ThreadPoolExecutor(slots, thread_name_prefix="unit")
        try:
            for _ in pool.map(run, plan.units):
                pass
        finally:
            pool.shutdown(cancel_futures=True)
    return sink.tensors
