"""The models of a plan as a table: how much each counts, its size, the ranks of adapters."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from svc_dist.cli.overview.columns import aligned
from svc_dist.cli.overview.values import shown
from svc_dist.errors import printable
from svc_dist.methods.parameters import cancel
from svc_dist.plan.inputs import PlannedModel
from svc_dist.plan.model import Plan
from svc_dist.plan.tensors.dispositions import FALLBACK, Disposition
from svc_dist.sizes import format_size

_LISTED = 3  # weights of one expert that are listed one by one
#: Methods that divide each entry by the weights of the experts that agree on its sign: no expert has one share.
_BY_ENTRY = frozenset(("ties", "breadcrumbs_ties", "dare_ties", "della"))


def model_lines(plan: Plan) -> list[str]:
    """The base and the experts, each with its weight, its size and its place."""
    weights, shares, adapters = _of_experts(plan, _weights), _of_experts(plan, _shares), _adapters(plan)
    rows = [("", "weight", "share", "size", "model")]
    for number, model in enumerate(plan.models):
        role = f"expert {number}" if number else "base"
        name = printable(model.name) + (f", {adapters[number]}" if number in adapters else "")
        rows.append((role, weights.get(number, ""), shares.get(number, ""), format_size(_size(model)), name))
    return aligned(rows)


def _size(model: PlannedModel) -> int:
    return sum(file.size for one in (model, model.adapter) if one is not None for file in one.files)


def _of_experts(plan: Plan, values_of: Callable[[Disposition], Sequence[str]]) -> dict[int, str]:
    """A value of each expert; of several, by tensor or by output, the most frequent first. What embeddings and norms
    take by the fallback of a spectral method is not the expert's."""
    tensors = Counter(tensor.disposition for tensor in plan.tensors)
    values: dict[int, Counter[str]] = {}
    for result in plan.results:
        for number, entry in enumerate(result.dispositions):
            if entry.method is None or not tensors[number] or entry.reason.startswith(FALLBACK):
                continue
            models = entry.models[1:] if entry.models is not None else range(1, len(plan.models))
            for model, value in zip(models, values_of(entry), strict=False):
                values.setdefault(model, Counter())[value] += tensors[number]
    return {model: _spread(counts) for model, counts in values.items()}


def _weights(entry: Disposition) -> list[str]:
    given = (entry.parameters or {}).get("weight")
    return [shown(value) for value in given] if isinstance(given, list) else []


def _shares(entry: Disposition) -> list[str]:
    """What each weight is divided to; nothing where weights are taken as they are."""
    parameters = entry.parameters or {}
    given = parameters.get("weight")
    divided = parameters.get("normalize") or parameters.get("normalize_weights")
    if not divided or not isinstance(given, list) or entry.method in _BY_ENTRY:
        return []
    every = [*given, parameters.get("base_weight") or 0.0]
    return [] if cancel(every) else [f"{value / sum(every):.3g}" for value in given]


def _spread(counts: Counter[str]) -> str:
    if len(counts) > _LISTED:
        return f"{min(counts, key=float)} to {max(counts, key=float)}"
    return ", ".join(value for value, _ in counts.most_common())


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
