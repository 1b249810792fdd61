"""The models of a plan as a table: how much each counts, its size, the ranks of adapters."""

from __future__ import annotations

from collections import Counter

from svc_dist.cli.overview.columns import aligned
from svc_dist.cli.overview.values import shown
from svc_dist.errors import printable
from svc_dist.plan.inputs import PlannedModel
from svc_dist.plan.model import Plan
from svc_dist.sizes import format_size

_LISTED = 3  # weights of one expert that are listed one by one


def model_lines(plan: Plan) -> list[str]:
    """The base and the experts, each with its weight, its size and its place."""
    weights, adapters = _weights(plan), _adapters(plan)
    rows = [("", "weight", "size", "model")]
    for number, model in enumerate(plan.models):
        role = f"expert {number}" if number else "base"
        name = printable(model.name) + (f", {adapters[number]}" if number in adapters else "")
        rows.append((role, weights.get(number, ""), format_size(_size(model)), name))
    return aligned(rows)


def _size(model: PlannedModel) -> int:
    return sum(file.size for one in (model, model.adapter) if one is not None for file in one.files)


def _weights(plan: Plan) -> dict[int, str]:
    """The weight of each expert; of several, by tensor or by output, the most frequent first."""
    tensors = Counter(tensor.disposition for tensor in plan.tensors)
    values: dict[int, Counter[float]] = {}
    for result in plan.results:
        for number, entry in enumerate(result.dispositions):
            given = (entry.parameters or {}).get("weight")
            if entry.method is None or not isinstance(given, list) or not tensors[number]:
                continue
            models = entry.models[1:] if entry.models is not None else range(1, len(plan.models))
            for model, value in zip(models, given, strict=False):
                values.setdefault(model, Counter())[value] += tensors[number]
    return {model: _spread(counts) for model, counts in values.items()}


def _spread(counts: Counter[float]) -> str:
    if len(counts) > _LISTED:
        return f"{shown(min(counts))} to {shown(max(counts))}"
    return ", ".join(shown(value) for value, _ in counts.most_common())


def _adapters(plan: Plan) -> dict[int, str]:
    """Of each model that is, or has, an adapter: its ranks, and how many matrices it changes."""
    ranks: dict[int, Counter[int]] = {}
    for tensor in plan.tensors:
        for added in (*tensor.factors, tensor.base_factors):
            for one in added or ():
                ranks.setdefault(one.a.input, Counter())[one.rank] += one.experts
    owners = list(range(len(plan.models)))
    owners += [number for number, model in enumerate(plan.models) if model.adapter is not None]
    told = {}
    for number, counts in ranks.items():
        least, most = min(counts), max(counts)
        text = f"rank {least}" if least == most else f"ranks {least} to {most}"
        changed = counts.total()
        told[owners[number]] = f"adapter of {text} for {changed:,} {'matrix' if changed == 1 else 'matrices'}"
    return told
