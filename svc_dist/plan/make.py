"""Making a plan from a recipe and the headers of its inputs: shards, tensors, units and their costs."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from msgspec import structs

from svc_dist.checkpoint.adapters.adapter import Expert, OpenedModel, attach, attach_to_base, open_expert
from svc_dist.checkpoint.adapters.config import MERGE_FIRST
from svc_dist.checkpoint.checkpoint import Checkpoint, KnownHeaders
from svc_dist.checkpoint.formats.written import together
from svc_dist.checkpoint.header import TensorSpec
from svc_dist.checkpoint.layout import Shard, pack, ranges, share
from svc_dist.checkpoint.weight_files import ADAPTER
from svc_dist.errors import PlanError, RecipeError, printable
from svc_dist.plan.adapters.bases import other_bases
from svc_dist.plan.adapters.pairs import as_adapter
from svc_dist.plan.adapters.sidecars import adapter_sidecars
from svc_dist.plan.advice import warnings
from svc_dist.plan.auto.chosen import auto_warnings, with_choice
from svc_dist.plan.costs import PieceCosts, grain, takes_matrices
from svc_dist.plan.devices.solvers import solver_warnings
from svc_dist.plan.devices.stacks import SHARES, Stacks, stacked
from svc_dist.plan.files import quantisation
from svc_dist.plan.files.configs import compared, config_warnings, no_fine_tunes
from svc_dist.plan.files.conversation import conversation_warnings
from svc_dist.plan.files.layers import layer_values, without_layers
from svc_dist.plan.files.multi_token import multi_token_values
from svc_dist.plan.files.sidecars import sidecars
from svc_dist.plan.files.tokenizer import (
    common_vocabulary,
    new_vocab_size,
    planned_template,
    tokenizer_source,
    vocabulary_warnings,
    with_config_source,
    with_tokens,
)
from svc_dist.plan.fingerprint import fingerprint, versions
from svc_dist.plan.folders import line_of, require_folders
from svc_dist.plan.hub_models import located
from svc_dist.plan.inputs import copies_of, inputs_of, model_of
from svc_dist.plan.model import Plan, Result, Unit
from svc_dist.plan.quantised.decoded import decoded_models
from svc_dist.plan.quantised.written import with_codecs
from svc_dist.plan.settings import Settings
from svc_dist.plan.tables.collection import collection_paused
from svc_dist.plan.tensor import PlannedTensor
from svc_dist.plan.tensors import dtypes
from svc_dist.plan.tensors.dispositions import Decision, Disposition, decide
from svc_dist.plan.tensors.dtypes import with_dtypes
from svc_dist.plan.tensors.layers import with_layers
from svc_dist.plan.tensors.matrices import unknown_layouts
from svc_dist.plan.tensors.renames import Prefixes, renamed
from svc_dist.plan.tensors.ties import Ties, tie
from svc_dist.plan.vocabulary.rows import Rows
from svc_dist.plan.vocabulary.vocabularies import Vocabularies
from svc_dist.recipe.resolved import ResolvedRecipe
from svc_dist.storage.writing.base import ShardFile
from svc_dist.tensor_names import LayerRange

_NOT_CARRIED = "a scale of activations or of the cache: the result is not quantised"


@collection_paused()
def make_plan(recipe: ResolvedRecipe, settings: Settings) -> Plan:
    """Plan a merge. Reads headers, indexes and configs only, and for a recipe with ``auto`` some rows of matrices.

    Raises RecipeError, PlanError (tensors that need a rule), DamagedInputError, StorageError.
    """
    recipe = located(recipe)
    models, renames, layers = _open_models(recipe)
    models, tied = tie(recipe, models)
    over, base = attach_to_base(models[0])
    if over.adapter is not None and recipe.output == "adapter":
        raise RecipeError(
            f"{recipe.origin.at('output')}: the base has an adapter, but PEFT loads the result over the plain model",
            "name the plain model as base_model",
            code="adapter-cannot-hold",
        )
    experts = [attach(model, base) for model in models[1:]]
    whole = [expert.whole for expert in experts]
    planned = tuple(
        model_of(model, prefixes, recipe.hub_models, taken)
        for model, prefixes, taken in zip(models, renames, layers, strict=True)
    )
    recipe, choice = with_choice(recipe, planned, over, experts)
    differing = without_layers(recipe, compared(base, whole))
    vocabularies = Vocabularies(base.location, experts, recipe.access, recipe.tokenizer.other)
    with no_fine_tunes(base.location, differing):
        decided = [decide(recipe, choices, base, whole, vocabularies, tied) for choices in recipe.results]
    by_result = [with_dtypes(recipe, base, with_codecs(recipe, base, decisions)) for decisions in decided]
    decisions = by_result[0]
    result = common_vocabulary(recipe, decisions)
    recipe = with_config_source(recipe, vocabularies, result)
    adapter = as_adapter(recipe, by_result, base, experts) if recipe.output == "adapter" else None
    written = by_result if adapter is None else adapter.by_result
    layout = _layout(recipe, written[0], base, whole)
    by_name = {decided[0].name: decided for decided in zip(*written, strict=True)}
    dispositions, tensors = _plan_tensors(layout, by_name, over, experts, tied)
    paths = [choices.path for choices in recipe.results]
    planned_locations = [model.location for model in planned]
    template = planned_template(recipe, planned_locations)
    of_tokens = with_tokens(base, decisions)
    tokenizer = tokenizer_source(recipe, vocabularies, of_tokens, result)
    described = models[recipe.config_source or 0].model or base
    stale = quantisation.is_stale(described, decisions)
    declared = quantisation.declared_values(base, described, decisions)
    added, vocab_size = () if result is None else result.added, new_vocab_size(described, of_tokens)
    values, of_layers = layer_values(recipe, models, decisions, recipe.config_source or 0)
    values |= multi_token_values([one.config for one in (base, *whole)], recipe.config_source or 0, decisions)
    if adapter is None:
        said = (vocab_size, bool(added), {**values, **declared})
        copied, left_out = sidecars(recipe, planned, tokenizer, template, stale, tied.head, *said)
    else:
        copied, left_out = adapter_sidecars(recipe, planned), ()
    plan = Plan(
        fingerprint="",
        recipe=dict(recipe.plain),
        settings=settings,
        models=planned,
        results=tuple(
            Result(path, numbered) for path, numbered in zip(paths, zip(*dispositions, strict=True), strict=True)
        ),
        shards=tuple(
            ShardFile(f"{path}/{shard.file}" if path else shard.file, shard.size) for path in paths for shard in layout
        ),
        tensors=tensors,
        not_written=(
            *((d.name, d.disposition.reason) for d in written[0] if d.disposition.kind in ("tied", "left_out")),
            *((name, _NOT_CARRIED) for name in base.unneeded if name not in base.tensors),
        ),
        units=_plan_units(layout, tensors, dispositions, settings),
        warnings=(
            *auto_warnings(recipe, choice),
            *config_warnings(base.location, planned_locations[recipe.config_source or 0], differing),
            *conversation_warnings(
                recipe, [*planned_locations, *filter(None, [recipe.tokenizer.other])], tokenizer, template
            ),
            *vocabulary_warnings(recipe, vocabularies, of_tokens, tokenizer, described, vocab_size),
            *warnings(recipe, decisions, left_out, planned, tensors, dispositions),
            *other_bases(models),
            *tied.warnings,
            *quantisation.warnings(described, decisions, stale),
            *of_layers,
            *dtypes.warnings(recipe, base, decisions),
            *solver_warnings(tensors, dispositions, settings),
            *unknown_layouts([d.spec for d in decisions if d.turned is None and d.spec is not None]),
        ),
        methods=versions(dispositions),
        sidecars=copied,
        left_out=left_out,
        chat_template=template,
        documents=tuple(dict(one) for one in recipe.documents),
        adapter=None if adapter is None else adapter.config,
        added_tokens=added,
        auto=choice,
    )
    return plan.identified(fingerprint(plan))


def _open_models(recipe: ResolvedRecipe) -> tuple[list[OpenedModel], list[Prefixes], list[LayerRange | None]]:
    """The base and the experts with tensors renamed for the merge, the renamed prefixes of each, and its layers."""
    require_folders(recipe)
    first, *others = recipe.models
    distinct = dict.fromkeys((model.location, model.use) for model in others)  # several may be layers of one model
    known = KnownHeaders()
    with ThreadPoolExecutor(8) as pool:
        opening = {each: pool.submit(open_expert, each[0], recipe.access, each[1], known) for each in distinct}
        with line_of(recipe, 0):
            opened = [open_expert(first.location, recipe.access, "model", known)]
        for number, model in enumerate(others, 1):
            with line_of(recipe, number):
                opened.append(opening[model.location, model.use].result())
    if not recipe.has_base_model and any(expert.model is None for expert in opened):
        raise RecipeError(
            f"{recipe.origin.at('models')}: an adapter is merged over a base: base_model is missing",
            code="base-missing",
        )
    models, prefixes = renamed(recipe, decoded_models(recipe, opened))
    whole = models[0].model
    assert whole is not None
    models = [models[0], *(model.in_layout_of(whole) for model in models[1:])]
    viewed, layers = with_layers(recipe, models)
    return viewed, prefixes, layers


def _layout(
    recipe: ResolvedRecipe, decisions: Sequence[Decision], base: Checkpoint, experts: Sequence[Checkpoint]
) -> list[Shard]:
    """The shards of one result. Raises RecipeError where there is nothing to write."""
    specs = [(d.name, d.dtype or d.spec.dtype, d.spec.shape, d.codec) for d in decisions if d.spec is not None]
    if not specs:
        why = f"the base {base.location} holds no tensors"
        if decisions:
            first = decisions[0]
            why = f"every tensor is left out, {printable(first.name)} because: {first.disposition.reason}"
        raise RecipeError(f"{recipe.origin.at()}: nothing to write: {why}", code="nothing-to-write")
    if recipe.output == "adapter":
        return pack(specs, sys.maxsize, ADAPTER)
    modules = {folder for model in (base, *experts) for folder in model.modules}
    return pack(specs, recipe.max_shard_size, base.weight_names, modules)


def _plan_tensors(
    layout: Sequence[Shard],
    by_name: Mapping[str, Sequence[Decision]],
    base: Expert,
    experts: Sequence[Expert],
    tied: Ties,
) -> tuple[list[tuple[Disposition, ...]], tuple[PlannedTensor, ...]]:
    """The dispositions by number, each in all results, and the tensors. ``by_name``: each name's decisions in these."""
    numbers: dict[tuple[Any, ...], int] = {}
    dispositions: list[tuple[Disposition, ...]] = []
    tensors: list[PlannedTensor] = []
    everyone = tuple(range(len(experts) + 1))
    for shard_number, shard in enumerate(layout):
        for spec in shard.tensors:
            decision = by_name[spec.name][0]
            decided = tuple(one.disposition for one in by_name[spec.name])
            first = decided[0]
            # Equal parameters and calibrations are one object each, so that their identity is enough.
            values = (id(value) for one in decided for value in (one.parameters, one.calibration))
            least = (one.least_difference for one in decided)
            key = (first.source, first.reason, first.method, first.models, *values, *least)
            if key not in numbers:
                numbers[key] = len(dispositions)
                dispositions.append(decided)
            stored = decision.of or (spec if decision.lead is None else structs.replace(spec, name=decision.lead))
            whole = first.kind == "merged" or decision.factor is not None
            numbers_of = (first.models or everyone) if whole else (first.source,)
            rows = decision.rows or Rows(spec.shape)
            sources, factors, base_factors = inputs_of(stored, base, experts, numbers_of, rows.maps is not None)
            if base_factors and rows.maps is not None:
                raise PlanError(
                    f"{spec.name}: the base's adapter is LoRA on this tensor, whose rows are matched by token",
                    MERGE_FIRST,
                    code="lora-rows-move",
                )
            if decision.factor is not None and decision.factor.exact:
                sources, base_factors = (None,) * len(sources), ()  # what is added does not depend on the base
            copies = copies_of(tied.copies.get(spec.name if decision.of is None else stored.name, ()), sources)
            position = (shard_number, spec.start, spec.end)
            merged = (numbers[key], decision.batch)
            of = (spec.name, spec.dtype, spec.shape, *position, *merged, sources, factors, bool(decision.turned))
            rest = 0 if rows.merged is None else rows.rest
            lead = decision.lead if decision.of is None else stored.name
            tied_to = (copies, lead, decision.factor, base_factors)
            tensors.append(PlannedTensor(*of, rows.merged, rest, *tied_to, rows.maps, spec.codec))
    return dispositions, tuple(tensors)


def _plan_units(
    layout: Sequence[Shard],
    tensors: Sequence[PlannedTensor],
    dispositions: Sequence[Sequence[Disposition]],
    settings: Settings,
) -> tuple[Unit, ...]:
    """The units of all shards of one result, each with its cost. ``dispositions``: by number, in all results."""
    number_of = {tensor.name: number for number, tensor in enumerate(tensors)}

    def grain_of(spec: TensorSpec) -> int:
        tensor = tensors[number_of[spec.name]]
        return 0 if tensor.codec is not None else grain(tensor, dispositions[tensor.disposition])

    def joined(spec: TensorSpec) -> bool:
        number = number_of[spec.name]
        factor, following = tensors[number].factor, tensors[number + 1 : number + 2]
        depends = any(together(one.name, one.codec) == together(spec.name, spec.codec) for one in following)
        return depends or (factor is not None and factor.side == "a")

    least, stacks = share(layout), Stacks(lambda tensor: dispositions[tensor.disposition], settings)
    of_stacks = share(layout, SHARES)
    stacking = stacks.within(tensors, of_stacks)

    def enough(spec: TensorSpec) -> int:
        tensor = tensors[number_of[spec.name]]
        if spec.name in stacking:
            return of_stacks
        return 0 if takes_matrices(tensor, dispositions[tensor.disposition]) else least

    costs = PieceCosts(dispositions, settings.precision, settings.device)
    units: list[Unit] = []
    for shard_number, shard in enumerate(layout):
        for cut in ranges(shard, grain_of, joined, enough):
            pieces = tuple((number_of[name], first, last) for name, first, last in cut.pieces)
            bytes_in, flops, peak = 0, 0.0, 0
            for number, first, last in pieces:
                read, operations, largest = costs.of(tensors[number], first, last)
                bytes_in, flops, peak = bytes_in + read, flops + operations, max(peak, largest)
            for stack in stacks.of(tensors[number] for number, _, _ in pieces):
                peak = max(peak, costs.memory(stacked(stack)))
            bytes_out = (cut.end - cut.start) * len(dispositions[0])
            position = (shard_number, cut.start, cut.end)
            units.append(Unit(f"{len(units):06d}", *position, pieces, bytes_in, bytes_out, flops, peak))
    return tuple(units)
