"""Inspect experts before a merge: how much their sum over-counts, and which experts overlap in which layers."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

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
from svc_dist.run_folder.receipt import Receipt
from svc_dist.run_folder.report import MergeReport, reports
from svc_dist.storage.reading import Source
from svc_dist.storage.retry import Retries
from svc_dist.storage.writing.base import RangeWriter, ShardFile, ShardState
from svc_dist.tensor_names import parse_name


def inspect(
    recipe: ResolvedRecipe,
    layers: Collection[range] | None = None,
    *,
    settings: SettingsRequest,
    slots: int | None = None,
    scratch: str | None = None,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> MergeReport:
    """Decompose the plain sum of a recipe's task deltas as SVC would, and return a report without a result.

    Every matrix that the recipe merges is looked at (of ``layers`` only, if given), whatever its method: the units of a
    merge by ``task_arithmetic`` with weight 1 and SVC run, and their results are discarded. ``progress``: called with
    the number of units done and of all units. Raises RecipeError when no matrix matches, and what a merge raises.
    """
    import torch  # noqa: F401  (in this thread: two that import it at once wait for each other)

    from svc_dist.run.unit import run_unit

    access = recipe.access
    plan = make_plan(_summed(recipe), settings_here(settings, None))
    units = [unit for unit in plan.units if _wanted(plan, unit, layers)]
    if not units:
        raise RecipeError(
            f"{recipe.origin.at()}: no matrix to inspect" + ("" if layers is None else f" in layers {_listed(layers)}")
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
        for done, receipt in enumerate(pool.map(look, ordered), 1):
            receipts[receipt.unit] = receipt
            progress(done, len(units))
    looked_at = dataclasses.replace(plan, units=tuple(units))
    report = MergeReport.parse(reports(looked_at, receipts)[0], "the inspection")
    return dataclasses.replace(
        report,
        shards=(), dispositions=(), tensors=(), not_written=(), ranges=(), bytes_out=0,
        # A unit can also hold tensors of other layers.
        matrices=[entry for entry in report.matrices if _in(layers, entry["tensor"])],
        deltas=[entry for entry in report.deltas if _in(layers, entry["tensor"])],
    )  # fmt: skip


def parse_layers(text: str) -> list[range]:
    """Spans of layers from ``0,10,20-23``. Raises RecipeError."""
    layers: list[range] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?", part)
        if match is None or int(match[2] or match[1]) < int(match[1]):
            raise RecipeError(f"--layers is {text!r}, but must be numbers and spans like 0,10,20-23")
        layers.append(range(int(match[1]), int(match[2] or match[1]) + 1))
    return layers


def _summed(recipe: ResolvedRecipe) -> ResolvedRecipe:
    """The recipe as a plain sum with SVC; its rules only say what is kept unmerged."""
    experts = len(recipe.models) - 1
    parameters = METHODS["task_arithmetic"].complete(experts, {})
    calibration = CALIBRATIONS["svc"].complete({}, experts)
    plain_sum = MergeChoice("task_arithmetic", parameters, calibration, experts)
    choices = recipe.results[0]
    rules = tuple(rule if isinstance(rule, KeepChoice) else plain_sum for rule in choices.rules)
    return dataclasses.replace(
        recipe, results=(ResultChoices("", plain_sum, choices.fallback, rules),), warnings=(), filters=()
    )


def _wanted(plan: Plan, unit: Unit, layers: Collection[range] | None) -> bool:
    tensors = [plan.tensors[number] for number, _, _ in unit.pieces]
    return any(takes_matrices(tensor, plan.dispositions(tensor)) and _in(layers, tensor.name) for tensor in tensors)


def _in(layers: Collection[range] | None, name: str) -> bool:
    layer = parse_name(name).layer
    return layers is None or (layer is not None and any(layer in span for span in layers))


def _listed(layers: Collection[range]) -> str:
    return ", ".join(f"{span.start}-{span[-1]}" if len(span) > 1 else str(span.start) for span in layers)


class _Nowhere:
    """A sink, and the writer of its ranges, that discard everything."""

    memory = 0
    retries = Retries()

    def prepare(self, shards: Sequence[ShardFile]) -> None:
        pass

    def state(self, shard: ShardFile) -> ShardState | None:
        return None

    def write_range(self, shard: ShardFile, start: int, end: int, first_part: int, parts: Sequence[int]) -> RangeWriter:
        return self

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
