"""What a finished merge found unchanged: experts that equal the base, and tensors that a condition left as in it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from svc_dist.plan.model import Plan
from svc_dist.run_folder.receipt import Receipt
from svc_dist.sizes import counted


def unchanged_experts(plan: Plan, receipts: Iterable[Receipt]) -> list[str]:
    """The experts whose task deltas are zero in every entry that the receipts sample, as the recipe names them."""
    experts = [model.name for model in plan.models[1:]]
    still = dict.fromkeys(range(len(experts)))
    merged: set[int] = set()
    for receipt in receipts:
        for delta in receipt.deltas:
            gram, position = delta["gram"], 0
            models = delta.get("models", range(len(plan.models)))[1:]
            for index, model in enumerate(models):  # the diagonal of an upper triangle, row by row
                merged.add(model - 1)
                if gram[position] != 0:
                    still.pop(model - 1, None)
                position += len(models) - index
        if not still:
            return []
    return [experts[index] for index in still if index in merged]


def passed(merged: Sequence[bool]) -> str:
    """How many tensors, or matrices of fused ones, a condition let through."""
    return (
        f"only_where: {sum(merged):,} of {counted(len(merged), 'tensor')} differ enough from the base and are merged "
        "(of fused experts, each counts); the others stay as in the base"
    )
