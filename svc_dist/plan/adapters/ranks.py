"""The rank of a merged delta, where the method and the experts fix it: then an adapter holds all of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from svc_dist.checkpoint.adapters.adapter import Expert
from svc_dist.checkpoint.adapters.factors import AdapterFactors
from svc_dist.methods.calibration.chain import declared, names
from svc_dist.methods.registry import METHODS
from svc_dist.plan.tensors.dispositions import Disposition


@dataclass(frozen=True)
class ExactRank:
    """The rank that a merged delta has at most. ``blocks``: as of ``Factor``."""

    rank: int
    blocks: tuple[int, ...] = ()


def changes(expert: Expert, name: str) -> bool:
    """Whether an expert may change a tensor of the base, by its headers."""
    stores = expert.model is not None and name in expert.model.tensors
    return stores or bool(expert.factors.get(name)) or expert.saved(name) is not None


def exact_rank(
    name: str, decided: Sequence[Disposition], matrix: tuple[int, int], experts: Sequence[Expert]
) -> ExactRank | str:
    """The rank of what is merged into matrices ``(rows, columns)`` in every result, or why it is not low.

    ``decided``: the tensor's disposition in each result.
    """
    ranks = []
    for expert in experts:
        added = expert.factors.get(name, ())
        if expert.saved(name) is not None or (expert.model is not None and name in expert.model.tensors):
            return f"{expert.whole.location} holds it whole, not as factors"
        if any(one.magnitude is not None for one in added):
            return f"{expert.whole.location} changes it by DoRA"
        ranks.append(_rank(added, matrix[0] * matrix[1]))
    for one in decided:
        if one.method is None:
            continue
        if not METHODS[one.method].has_factored_form(one.parameters or {}, declared(names(one.calibration))):
            return f"{one.method} makes a delta of full rank"
    if all(one.calibration is None and _is_sum(one) for one in decided):
        return ExactRank(sum(ranks), tuple(ranks))
    return ExactRank(min(sum(ranks), *matrix))


def exact_methods() -> list[str]:
    """The methods that an adapter holds exactly where every expert is one."""
    return [method.name for method in METHODS.values() if method.factored is not None]


def _is_sum(disposition: Disposition) -> bool:
    return disposition.method is None or METHODS[disposition.method].family == "elementwise"


def _rank(added: Sequence[AdapterFactors], size: int) -> int:
    """The rank of what an adapter adds to matrices of ``size`` entries: the largest, as all have one shape."""
    by_matrix: Counter[int] = Counter()
    for one in added:
        if one.experts == 1:
            by_matrix[one.first // max(size, 1)] += one.rank
    return sum(one.rank for one in added if one.experts > 1) + max(by_matrix.values(), default=0)
