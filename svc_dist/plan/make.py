"""The plan: every output shard, every tensor's place and every unit of work, from a recipe and headers alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from svc_dist.checkpoint.adapter import Expert, Opened, attach, open_expert
from svc_dist.checkpoint.checkpoint import Checkpoint, open_checkpoint
from svc_dist.checkpoint.dtype import FLOAT_DTYPES, RECIPE_DTYPES
from svc_dist.checkpoint.layout import Shard, pack
from svc_dist.errors import RecipeError
from svc_dist.methods.registry import CALIBRATIONS, METHODS
from svc_dist.plan.advice import _warnings
from svc_dist.plan.dispositions import Decision, Disposition, decide
from svc_dist.plan.fingerprint import _fingerprint
from svc_dist.plan.inputs import held, model_of
from svc_dist.plan.model import Plan, PlannedTensor, Result
from svc_dist.plan.renames import Prefixes, renamed
from svc_dist.plan.settings import Settings
from svc_dist.plan.sidecars import sidecars
from svc_dist.plan.sidecars import warnings as sidecar_warnings
from svc_dist.plan.tokenizer import planned_template, tokenizer_source
from svc_dist.plan.units import plan_units
from svc_dist.recipe.resolved import ResolvedRecipe
from svc_dist.storage.writing.base import ShardFile


def make_plan(recipe: ResolvedRecipe, settings: Settings) -> Plan:
    """Plan a merge. Reads headers, indexes and configs only.

    Raises RecipeError, PlanError (tensors that need a rule), DamagedInputError, StorageError.
    """
    models, renames = _open_models(recipe)
    base = models[0].model
    assert base is not None
    experts = [attach(model, base) for model in models[1:]]
    whole = [expert.whole for expert in experts]
    each = [decide(recipe, choices, base, whole) for choices in recipe.results]
    decisions = each[0]
    written = [decision for decision in decisions if decision.disposition.kind in ("merged", "copied")]
    if not written:
        raise RecipeError(f"{recipe.origin.at()}: nothing to write: the base {base.location} holds no tensors")

    specs = [(d.name, _written_dtype(d.spec.dtype, recipe.dtype), d.spec.shape) for d in written if d.spec is not None]
    layout = pack(specs, recipe.max_shard_size)
    by_name = {alike[0].name: alike for alike in zip(*each, strict=True)}
    table, tensors = _place(layout, by_name, base, experts)
    paths = [choices.path for choices in recipe.results]
    planned_results = tuple(Result(path, dispositions) for path, dispositions in zip(paths, table, strict=True))
    units = plan_units(layout, table, tensors, settings)
    every = [disposition for dispositions in table for disposition in dispositions]
    used = sorted({d.method for d in every if d.method} | {d.calibration["method"] for d in every if d.calibration})
    versions = {name: (METHODS[name] if name in METHODS else CALIBRATIONS[name]).version for name in used}
    planned = tuple(model_of(model, prefixes) for model, prefixes in zip(models, renames, strict=True))
    planned_locations = [model.location for model in planned]
    template = planned_template(recipe, planned_locations)
    tokenizer = tokenizer_source(recipe, planned_locations, decisions)
    copied, left_out = sidecars(recipe, planned, tokenizer, template)
    canonical = dict(recipe.plain)
    return Plan(
        fingerprint=_fingerprint(canonical, settings, planned, versions, copied, template),
        recipe=canonical,
        settings=settings,
        models=planned,
        results=planned_results,
        shards=tuple(
            ShardFile(f"{path}/{shard.file}" if path else shard.file, shard.size) for path in paths for shard in layout
        ),
        tensors=tensors,
        not_written=tuple(
            (d.name, d.disposition.reason) for d in decisions if d.disposition.kind in ("tied", "left_out")
        ),
        units=units,
        warnings=(*_warnings(recipe, decisions), *sidecar_warnings(left_out)),
        methods=versions,
        sidecars=copied,
        left_out=left_out,
        chat_template=template,
    )


def _open_models(recipe: ResolvedRecipe) -> tuple[list[Opened], list[Prefixes]]:
    """The base and the experts under the names of the merge, and the prefixes that were renamed in each."""
    locations = [model.location for model in recipe.models]
    with ThreadPoolExecutor(min(8, len(locations))) as pool:
        opening = [pool.submit(open_expert, location, recipe.access) for location in locations[1:]]
        base = open_checkpoint(locations[0], recipe.access)
        opened = [Opened(base.location, base, None), *(expert.result() for expert in opening)]
    if not recipe.has_base_model and any(expert.model is None for expert in opened):
        raise RecipeError(f"{recipe.origin.at('models')}: an adapter is merged over a base: base_model is missing")
    return renamed(recipe, opened)


def _written_dtype(dtype: str, wanted: str | None) -> str:
    return RECIPE_DTYPES[wanted] if wanted is not None and dtype in FLOAT_DTYPES else dtype


def _place(
    layout: Sequence[Shard], by_name: Mapping[str, Sequence[Decision]], base: Checkpoint, experts: Sequence[Expert]
) -> tuple[tuple[tuple[Disposition, ...], ...], tuple[PlannedTensor, ...]]:
    """The dispositions of each result, and the tensors. ``by_name``: the decisions of all results about a name."""
    table: dict[tuple[Any, ...], int] = {}
    dispositions: list[tuple[Disposition, ...]] = []
    tensors: list[PlannedTensor] = []
    for number, shard in enumerate(layout):
        for spec in shard.tensors:
            decision = by_name[spec.name][0]
            alike = tuple(one.disposition for one in by_name[spec.name])
            own = alike[0]
            # Parameters and calibrations are the recipe's: identity says enough.
            values = (id(part) for one in alike for part in (one.parameters, one.calibration))
            key = (own.source, own.reason, own.method, *values)
            if key not in table:
                table[key] = len(dispositions)
                dispositions.append(alike)
            inputs = held(spec, base, experts, None if own.kind == "merged" else own.source)
            place = (number, spec.start, spec.end)
            tensors.append(
                PlannedTensor(spec.name, spec.dtype, spec.shape, *place, table[key], decision.batch, *inputs)
            )
    return tuple(zip(*dispositions, strict=True)), tuple(tensors)
