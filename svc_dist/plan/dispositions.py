"""What becomes of each tensor: every name in any input gets a disposition, or the plan is refused with the reason."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from svc_dist.checkpoint.checkpoint import Checkpoint
from svc_dist.checkpoint.dtype import FLOAT_DTYPES
from svc_dist.checkpoint.header import TensorSpec
from svc_dist.errors import PlanError, RecipeError
from svc_dist.methods.registry import METHODS
from svc_dist.plan.refusals import has_more_rows, listed, quantised, refusal, refusal_message, remedy, ties
from svc_dist.recipe.choices import KeepChoice, ResultChoices
from svc_dist.recipe.resolved import ResolvedRecipe
from svc_dist.tensor_names import (
    EMBEDDING_PATTERNS,
    VOCABULARY_PATTERNS,
    depths,
    is_convolution,
    matches,
    natural_key,
)

Kind = Literal["merged", "copied", "tied", "left_out"]
Batch = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Disposition:
    """``merged`` by a method with complete parameters and maybe a calibration; ``copied`` from model ``source`` (0: the
    base); ``tied`` to another tensor as in the base, or ``left_out`` as in the base: not written. ``reason`` says why,
    for people."""

    kind: Kind
    reason: str
    method: str | None = None
    parameters: dict[str, Any] | None = None
    calibration: dict[str, Any] | None = None
    source: int = 0


@dataclass(frozen=True, slots=True)
class Decision:
    """The disposition of one name, its dtype and shape as they are in the model it comes from, and ``(count, m, n)``
    where it is a batch of matrices. ``cut``: whether experts hold more rows, which are left out."""

    name: str
    disposition: Disposition
    batch: Batch | None = None
    spec: TensorSpec | None = None
    cut: bool = False


def decide(
    recipe: ResolvedRecipe, choices: ResultChoices, base: Checkpoint, experts: Sequence[Checkpoint]
) -> list[Decision]:
    """A decision for one of the recipe's results about the union of all names, in natural order.

    Raises PlanError listing the tensors that no rule decides about and the rule that would, RecipeError for rules that
    match nothing, embedding patterns too.
    """
    names = sorted({name for model in (base, *experts) for name in model.tensors}, key=natural_key)
    rule_of = {name: _first_rule(recipe, name) for name in names}
    _require_rules_used(recipe, names, rule_of)
    _require_embeddings_found(recipe, names)
    codes = quantised((base, *experts))
    depth = depths(names)
    shared: dict[str, dict[str, Any]] = {}  # equal parameters are one object, by which plans tell dispositions apart
    decisions: list[Decision] = []
    refused: list[tuple[str, str]] = []
    for name in names:
        index = rule_of[name]
        chosen = choices.default if index is None else choices.rules[index]
        if isinstance(chosen, KeepChoice):
            kept = _kept(name, chosen, (base, *experts), f"rules[{index}]")
            if isinstance(kept, str):
                refused.append((name, kept))
            else:
                decisions.append(kept)
            continue
        cut = _cut_to_the_base(name, base, experts, recipe, index)
        reason = refusal(name, base, experts, cut, codes.get(name))
        if reason is not None:
            refused.append((name, reason))
            continue
        spec = base.tensors[name]
        if spec.dtype not in FLOAT_DTYPES:
            decisions.append(Decision(name, Disposition("copied", f"{spec.dtype} is not merged"), spec=spec))
            continue
        batch = matrices(spec, recipe.embedding_patterns)
        taken = choices.fallback if batch is None and METHODS[chosen.method].family == "spectral" else chosen
        parameters = taken.at(name, depth.get(name, 0.0))
        if taken.varies:
            parameters = shared.setdefault(json.dumps([taken.method, parameters]), parameters)
        calibration = taken.calibration if batch is not None else None
        reason = _by(taken is chosen, index, cut)
        disposition = Disposition("merged", reason, taken.method, parameters, calibration)
        decisions.append(Decision(name, disposition, batch, spec, cut))
    if refused:
        raise PlanError(refusal_message(refused, base, experts), remedy([name for name, _ in refused], names))
    return decisions


def matrices(spec: TensorSpec, embedding_patterns: Sequence[str]) -> Batch | None:
    """``(count, m, n)`` when spectral steps see the tensor as matrices, else None.

    A 2-D weight is one matrix; a convolution kernel is one matrix ``(out, -1)``; another 3-D weight is a batch (fused
    experts). Embeddings and heads, by name, and other ranks are none.
    """
    if len(spec.shape) < 2 or spec.numel == 0 or matches(spec.name, embedding_patterns):
        return None
    if len(spec.shape) == 2:
        return (1, *spec.shape)
    if len(spec.shape) == 3 and not is_convolution(spec.name):
        return spec.shape
    return (1, spec.shape[0], spec.numel // spec.shape[0])


def _first_rule(recipe: ResolvedRecipe, name: str) -> int | None:
    for index, rule in enumerate(recipe.rules):
        if matches(name, rule.match):
            return index
    return None


def _require_rules_used(recipe: ResolvedRecipe, names: Sequence[str], rule_of: dict[str, int | None]) -> None:
    used = set(rule_of.values())
    for index, rule in enumerate(recipe.rules):
        if index in used or rule.optional:
            continue
        where = recipe.origin.at("rules", index, "match")
        shadowed = sorted(
            {rule_of[name] for name in names if matches(name, rule.match)} - {None},
            key=lambda other: other or 0,
        )
        if shadowed:
            raise RecipeError(
                f"{where}: every tensor that this rule matches is taken by rules[{shadowed[0]}] before it",
                "put the narrower rule first",
            )
        raise _matches_nothing(where, names)


def _require_embeddings_found(recipe: ResolvedRecipe, names: Sequence[str]) -> None:
    """Each pattern of the recipe's own means a tensor: one that missed it would leave it to spectral steps."""
    for index, pattern in enumerate(recipe.embedding_patterns):
        if pattern not in EMBEDDING_PATTERNS and not any(matches(name, [pattern]) for name in names):
            raise _matches_nothing(recipe.origin.at("embedding_patterns", index), names)


def _matches_nothing(where: str, names: Sequence[str]) -> RecipeError:
    return RecipeError(
        f"{where}: matches no tensor of any model",
        f"patterns match whole names, like {names[0]!r}; begin one with * to allow any prefix" if names else None,
    )


def _kept(name: str, keep: KeepChoice, models: Sequence[Checkpoint], rule: str) -> Decision | str:
    """The decision to keep a tensor of one model, or why there is no such tensor."""
    base, source = models[0], keep.source
    holders = [number for number, model in enumerate(models) if name in model.tensors]
    if source is None:
        if 0 not in holders and len(holders) > 1:
            return (
                f"{rule} keeps it from its owner, but {listed([models[n] for n in holders])} have it and the base does "
                "not: keep it from one by name, or give one of them another prefix by `rename`"
            )
        source = holders[0]
    if source in holders:
        whose = "the base" if source == 0 else models[source].location
        kept = Disposition("copied", f"kept from {whose} by {rule}", source=source)
        return Decision(name, kept, spec=models[source].tensors[name])
    if source > 0:
        why = ", because its head is tied" if ties(name, models[source]) else ""
        return (
            f"{rule} keeps it from {models[source].location}, which does not have it{why} "
            f"(it is in {listed([models[n] for n in holders])})"
        )
    if ties(name, base):
        return Decision(name, Disposition("tied", f"not stored: tied in the base, kept so by {rule}"))
    return Decision(name, Disposition("left_out", f"not in the base, left out by {rule}"))


def _cut_to_the_base(
    name: str, base: Checkpoint, experts: Sequence[Checkpoint], recipe: ResolvedRecipe, rule: int | None
) -> bool:
    """Whether some experts hold more rows of this tensor than the base, and the recipe leaves these out."""
    own = None if rule is None else recipe.rules[rule].vocab
    asked = own == "base" or (own is None and recipe.vocab == "base" and matches(name, VOCABULARY_PATTERNS))
    return asked and any(has_more_rows(name, base, expert) for expert in experts)


def _by(chosen: bool, rule: int | None, cut: bool) -> str:
    """Who decided about a tensor, for people."""
    by = ("the recipe" if rule is None else f"rules[{rule}]") if chosen else "not a matrix: the fallback"
    return by + (", without the rows beyond the base's (vocab: base)" if cut else "")
