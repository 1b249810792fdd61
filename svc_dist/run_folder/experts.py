"""What a finished merge found of its experts: some equal the base, some come from another base, some tensors stay."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from svc_dist.plan.inputs import PlannedModel
from svc_dist.plan.model import Plan
from svc_dist.run_folder.receipt import Receipt
from svc_dist.sizes import counted

#: ``||Di|| / ||W0||`` from which on a tensor was not trained from the base's. Fine-tunes stay below 0.3 or so; of two
#: models that were trained apart it is the root of 2 where their weights are equally large, and never much below 1.
_FOREIGN = 0.9
_LEAST = 4  # tensors; fewer tell nothing


def unchanged_experts(plan: Plan, receipts: Iterable[Receipt]) -> list[str]:
    """The experts whose task deltas are zero in every entry that the receipts sample, as the recipe names them.

    None of those that tensors are copied from, or merged over: what these give to the result is no delta.
    """
    experts = [model.name for model in plan.models[1:]]
    dispositions = [one for result in plan.results for one in result.dispositions]
    given = {one.source for one in dispositions} | {one.models[0] for one in dispositions if one.models}
    still = dict.fromkeys(index for index in range(len(experts)) if index + 1 not in given)
    merged: set[int] = set()
    for receipt in receipts:
        for delta in receipt.deltas:
            for expert, square in _squares(delta, len(experts)):
                merged.add(expert)
                if square != 0:
                    still.pop(expert, None)
        if not still:
            return []
    return [experts[index] for index in still if index in merged]


def foreign_experts(models: Sequence[PlannedModel], deltas: Iterable[Mapping[str, Any]]) -> list[str]:
    """What is said of each expert that differs from the base by as much as two models that were trained apart, in most
    of its tensors. Nothing where layers may be stacked over others: these differ as much.

    ``models``: the base, then the experts; ``deltas``: those of receipts or of a report (``delta_overlap``).
    """
    if any(model.layers is not None for model in models):
        return []
    base_model, *experts = (model.name for model in models)
    seen, foreign = [0] * len(experts), [0] * len(experts)
    for delta in deltas:
        base = delta["base"]
        for expert, square in _squares(delta, len(experts)) if base else ():
            if square is not None:  # of values that are not finite, as of the base's
                seen[expert] += 1
                foreign[expert] += square > _FOREIGN**2 * base
    return [
        f"{expert} differs from {base_model} by as much as a model that was not trained from it, in most tensors: sums "
        "of such differences are noise. Check base_model"
        for expert, of, there in zip(experts, foreign, seen, strict=True)
        if there >= _LEAST and 2 * of > there
    ]


def _squares(delta: Mapping[str, Any], experts: int) -> Iterator[tuple[int, float | None]]:
    """The experts that a tensor was merged of, and ``||Di||^2`` of each: the diagonal of an upper triangle by rows.

    None where it is not finite.
    """
    models, position = delta.get("models", range(experts + 1))[1:], 0
    for index, model in enumerate(models):
        yield model - 1, delta["gram"][position]
        position += len(models) - index


def passed(merged: Sequence[bool]) -> str:
    """How many tensors, or matrices of fused ones, a condition let through."""
    return (
        f"only_where: {sum(merged):,} of {counted(len(merged), 'tensor')} differ enough from the base and are merged "
        "(of fused experts, each counts); the others stay as in the base"
    )
