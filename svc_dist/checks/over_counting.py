"""Inspect experts before a merge: how much their sum over-counts, and which experts overlap in which layers."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

from msgspec import structs

from svc_dist.errors import RecipeError
from svc_dist.methods.registry import CALIBRATIONS, METHODS
from svc_dist.plan.costs import takes_matrices
from svc_dist.plan.make import make_plan
from svc_dist.plan.model import Plan, Unit
from svc_dist.plan.settings import SettingsRequest
from svc_dist.recipe.choices import KeepChoice, MergeChoice, ResultChoices
from svc_dist.recipe.resolved import ResolvedRecipe
from svc_dist.run.host import available_memory, default_slots, device_memory, settings_here
from svc_dist.run.process import set_up_for_units
from svc_dist.run.progress import MergeProgress, Progress
from svc_dist.run_folder.receipt import Receipt
from svc_dist.run_folder.report import MergeReport, reports
from svc_dist.storage.reading import Source
from svc_dist.storage.retry import Retries
from svc_dist.storage.writing.base import RangeWriter, ShardFile, ShardState
from svc_dist.tensor_names import parse_name


def inspect(
    recipe: ResolvedRecipe,
    layers: str | None = None,
    *,
    settings: SettingsRequest,
    slots: int | None = None,
    scratch: str | None = None,
    progress: bool = False,
    on_progress: Callable[[MergeProgress], object] | None = None,
) -> MergeReport:
    """Decompose the plain sum of a recipe's task deltas as SVC would, and return a report without a result.

    It analyses every matrix that the recipe merges, whatever the method: it runs the units of a merge by
    ``task_arithmetic`` with weight 1 and SVC, and discards their results. ``layers``: only these, as ``0,10,20-23``.
    ``progress``, ``on_progress``: as in a merge, of which nothing is written. Raises RecipeError when no matrix
    matches, and the errors of a merge.
    """
    import torch  # noqa: F401  (in this thread: two threads that import it wait for each other)

    from svc_dist.run.unit import run_unit

    access = recipe.access
    spans = None if layers is None else _spans(layers)
    plan = make_plan(_summed(recipe), settings_here(settings, None))
    _require_layers(plan, recipe, spans or ())
    units = [unit for unit in plan.units if _is_inspected(plan, unit, spans)]
    if not units:
        where = "" if layers is None else f" in layers {layers}"
        raise RecipeError(
            f"{recipe.origin.at()}: no matrix to inspect{where}",
            "inspect looks at what the recipe merges as a matrix: remove rules that keep it, or name other --layers",
        )
    sources = [Source(model.location, model.files, access) for model in plan.inputs]
    slots = slots or default_slots(plan.settings)
    memory = device_memory(plan.settings.device) or available_memory() // 2
    slots = max(1, min(slots, memory // max(1, max(unit.memory for unit in units))))
    receipts = {}

    def look(unit: Unit) -> Receipt:
        with set_up_for_units(plan.settings):
            return run_unit(plan, unit, sources, _Nowhere(), scratch, access.parallel)

    with ExitStack() as stack:
        stack.enter_context(set_up_for_units(plan.settings))
        pool = stack.enter_context(ThreadPoolExecutor(slots))
        stack.callback(pool.shutdown, cancel_futures=True)
        ordered = sorted(units, key=lambda unit: unit.work, reverse=True)
        read_only = tuple(structs.replace(unit, bytes_out=0) for unit in units)
        shown = stack.enter_context(Progress(dataclasses.replace(plan, units=read_only), (), progress, on_progress))
        for receipt in pool.map(look, ordered):
            receipts[receipt.unit] = receipt
            shown.count([receipt.unit])
            shown.tick()
    looked_at = dataclasses.replace(plan, units=tuple(units))
    # Of a result there is nothing: the units that were run need not make up a shard.
    result = dict.fromkeys(("shards", "dispositions", "tensors", "not_written", "ranges"), ()) | {"bytes_out": 0}
    report = MergeReport.parse(reports(looked_at, receipts)[0] | result, "the inspection")
    return dataclasses.replace(
        report,
        # A unit can also hold tensors of other layers.
        matrices=[entry for entry in report.matrices if _in(spans, entry["tensor"])],
        deltas=[entry for entry in report.deltas if _in(spans, entry["tensor"])],
        only_where=[entry for entry in report.only_where if _in(spans, entry["tensor"])],
    )  # fmt: skip


def _spans(text: str) -> list[range]:
    spans: list[range] = []
    for span in text.split(","):
        match = re.fullmatch(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?", span)
        if match is None or int(match[2] or match[1]) < int(match[1]):
            raise RecipeError(f"--layers is {text!r}, but must be numbers and spans like 0,10,20-23")
        spans.append(range(int(match[1]), int(match[2] or match[1]) + 1))
    return spans


def _require_layers(plan: Plan, recipe: ResolvedRecipe, spans: Collection[range]) -> None:
    """Raise RecipeError where ``--layers`` names a layer that the model does not have."""
    layers = {layer for tensor in plan.tensors if (layer := parse_name(tensor.name).layer) is not None}
    missing = next((layer for span in spans for layer in span if layer not in layers), None)  # spans may be huge
    if missing is not None:
        has = f"has layers {min(layers)} to {max(layers)}" if layers else "has no layers"
        cure = "name other layers, or leave --layers out to inspect all"
        raise RecipeError(f"{recipe.origin.at()}: --layers names layer {missing}, but the model {has}", cure)


def _summed(recipe: ResolvedRecipe) -> ResolvedRecipe:
    """The recipe as a plain sum with SVC, whose deltas are measured; of its rules, only those that keep a tensor
    unmerged apply."""
    choices = recipe.results[0]

    def plain_sum(models: tuple[int, ...] | None) -> MergeChoice:
        experts = len(models or recipe.models) - 1
        parameters = METHODS["task_arithmetic"].complete(experts, {})
        calibration = CALIBRATIONS["svc"].complete({}, experts)
        return MergeChoice("task_arithmetic", parameters, calibration, models, experts=experts, least_difference=0.0)

    rules = tuple(rule if isinstance(rule, KeepChoice) else plain_sum(rule.models) for rule in choices.rules)
    results = (ResultChoices("", plain_sum(choices.default.models), choices.fallback, rules),)
    plain = recipe.plain if recipe.auto is None else recipe.auto.asked_plain(recipe.plain)
    return dataclasses.replace(
        recipe, auto=None, results=results, plain=plain, quantization="none", warnings=(), filters=(), output="model"
    )


def _is_inspected(plan: Plan, unit: Unit, spans: Collection[range] | None) -> bool:
    tensors = [plan.tensors[number] for number, _, _ in unit.pieces]
    return any(takes_matrices(tensor, plan.dispositions(tensor)) and _in(spans, tensor.name) for tensor in tensors)


def _in(spans: Collection[range] | None, name: str) -> bool:
    layer = parse_name(name).layer
    return spans is None or (layer is not None and any(layer in span for span in spans))


class _Nowhere:
    """A sink, and the writer of its ranges, that discard everything."""

    memory = 0
    self_proving = True
    retries = Retries()

    def prepare(self, shards: Sequence[ShardFile]) -> None:
        pass

    def state(self, shard: ShardFile) -> ShardState | None:
        return None

    def write_range(self, shard: ShardFile, start: int, end: int, first_part: int, parts: Sequence[int]) -> RangeWriter:
        return self

    def digest(self, shard: ShardFile, start: int, end: int, tokens: Sequence[str]) -> str:
        return ""

    def finish(self, shard: ShardFile, tokens: Sequence[str]) -> None:
        pass

    def write(self, data: memoryview) -> None:
        pass

    def commit(self) -> tuple[str, ...]:
        return ()

    def __enter__(self) -> RangeWriter:
        return self

    def __exit__(self, *_: object) -> None:
        pass
