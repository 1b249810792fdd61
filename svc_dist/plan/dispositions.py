"""What becomes of each tensor: every name in any input gets a disposition, or the plan is refused with the reason."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from svc_dist.checkpoint.checkpoint import Checkpoint
from svc_dist.checkpoint.dtype import FLOAT_DTYPES
from svc_dist.checkpoint.formats.table import quantised_tensors
from svc_dist.checkpoint.header import TensorSpec
from svc_dist.errors import PlanError, RecipeError
from svc_dist.methods.registry import METHODS
from svc_dist.recipe.choices import KeepChoice, ResultChoices
from svc_dist.recipe.resolved import ResolvedRecipe
from svc_dist.tensor_names import (
    EMBEDDING_PATTERNS,
    VOCABULARY_PATTERNS,
    depths,
    is_convolution,
    is_output_head,
    matches,
    natural_key,
    pattern_of,
    printable,
)

_SHOWN = 8  # refused tensors that a message spells out
_PATTERNS = 40  # patterns that a remedy spells out

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
    quantised = _quantised((base, *experts))
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
        reason = _refusal(name, base, experts, cut, quantised.get(name))
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
        raise PlanError(_refusal_message(refused, base, experts), _remedy([name for name, _ in refused], names))
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
                f"{rule} keeps it from its owner, but {_list([models[n] for n in holders])} have it and the base does "
                "not: keep it from one by name, or give one of them another prefix by `rename`"
            )
        source = holders[0]
    if source in holders:
        whose = "the base" if source == 0 else models[source].location
        kept = Disposition("copied", f"kept from {whose} by {rule}", source=source)
        return Decision(name, kept, spec=models[source].tensors[name])
    if source > 0:
        why = ", because its head is tied" if _ties(name, models[source]) else ""
        return (
            f"{rule} keeps it from {models[source].location}, which does not have it{why} "
            f"(it is in {_list([models[n] for n in holders])})"
        )
    if _ties(name, base):
        return Decision(name, Disposition("tied", f"not stored: tied in the base, kept so by {rule}"))
    return Decision(name, Disposition("left_out", f"not in the base, left out by {rule}"))


def _cut_to_the_base(
    name: str, base: Checkpoint, experts: Sequence[Checkpoint], recipe: ResolvedRecipe, rule: int | None
) -> bool:
    """Whether some experts hold more rows of this tensor than the base, and the recipe leaves these out."""
    own = None if rule is None else recipe.rules[rule].vocab
    asked = own == "base" or (own is None and recipe.vocab == "base" and matches(name, VOCABULARY_PATTERNS))
    return asked and any(_grown(name, base, expert) for expert in experts)


def _grown(name: str, base: Checkpoint, expert: Checkpoint) -> bool:
    one, other = base.tensors.get(name), expert.tensors.get(name)
    if one is None or other is None or not one.shape or len(one.shape) != len(other.shape):
        return False
    return other.shape[0] > one.shape[0] and other.shape[1:] == one.shape[1:]


def _by(chosen: bool, rule: int | None, cut: bool) -> str:
    """Who decided about a tensor, for people."""
    by = ("the recipe" if rule is None else f"rules[{rule}]") if chosen else "not a matrix: the fallback"
    return by + (", without the rows beyond the base's (vocab: base)" if cut else "")


def _refusal(
    name: str, base: Checkpoint, experts: Sequence[Checkpoint], cut: bool, quantised: str | None
) -> str | None:
    """Why this tensor cannot be merged without a rule; None when it can.

    ``cut``: experts may hold more rows than the base; ``quantised``: why it is not merged where it is quantised.
    """
    spec = base.tensors.get(name)
    holders = [expert for expert in experts if name in expert.tensors]
    if spec is None:
        if _ties(name, base):
            return f"stored in {_list(holders)}, but tied in the base {base.location}"
        return f"in {_list(holders)}, but not in the base {base.location}"
    missing = [expert for expert in experts if name not in expert.tensors]
    if missing:
        why = "tied" if all(_ties(name, model) for model in missing) and not _ties(name, base) else "missing"
        return f"{why} in {_list(missing)}"
    if quantised is not None:
        return quantised
    for expert in experts:
        other = expert.tensors[name]
        if other.shape != spec.shape and not (cut and _grown(name, base, expert)):
            vocabulary = other.shape[1:] == spec.shape[1:] and matches(name, VOCABULARY_PATTERNS)
            why = " (another vocabulary)" if vocabulary else ""
            return f"shape {list(spec.shape)} in the base, {list(other.shape)} in {expert.location}{why}"
        if (other.dtype in FLOAT_DTYPES) != (spec.dtype in FLOAT_DTYPES):
            return f"dtype {spec.dtype} in the base, {other.dtype} in {expert.location}"
    return None


def _quantised(models: Sequence[Checkpoint]) -> dict[str, str]:
    """For each tensor that is quantised in some model, or belongs to one that is, why it is not merged."""
    reasons: dict[str, str] = {}
    for model in models:
        codes, companions = quantised_tensors(model.tensors, model.config)
        for name, format in codes.items():
            what = f"{model.tensors[name].dtype} in {model.location} is quantised ({format.name})"
            reasons.setdefault(name, f"{what}, which svc_dist does not merge: {format.instead}")
        for name, value in companions.items():
            reasons.setdefault(name, f"belongs to the quantised tensor {printable(value)}; it has no meaning alone")
    return reasons


def _tied(model: Checkpoint) -> bool:
    config = model.config or {}
    text = config.get("text_config")
    return bool(config.get("tie_word_embeddings") or (isinstance(text, dict) and text.get("tie_word_embeddings")))


def _ties(name: str, model: Checkpoint) -> bool:
    """Whether a model's config says that this tensor is its embedding once more."""
    return is_output_head(name) and _tied(model)


def _list(models: Sequence[Checkpoint]) -> str:
    return ", ".join(model.location for model in models)


def _refusal_message(refused: Sequence[tuple[str, str]], base: Checkpoint, experts: Sequence[Checkpoint]) -> str:
    lines = [f"{len(refused)} tensor{'s' * (len(refused) > 1)} cannot be merged until a rule says what to do:"]
    lines += [f"  {printable(name)}: {reason}" for name, reason in refused[:_SHOWN]]
    if len(refused) > _SHOWN:
        lines.append(f"  ... and {len(refused) - _SHOWN} more")
    return "\n".join(lines + _explained([name for name, _ in refused], base, experts))


def _explained(names: Sequence[str], base: Checkpoint, experts: Sequence[Checkpoint]) -> list[str]:
    """What lies behind refusals that people meet often, and what else may be done than to keep the base's tensors."""
    lines = []
    if any(_grown(name, base, expert) and matches(name, VOCABULARY_PATTERNS) for name in names for expert in experts):
        lines += [
            "Experts with more tokens than the base: where they were appended, so that a number is the same token in",
            "all models, `vocab: base` merges the rows that the base has, without the others (docs/vocabulary.md).",
        ]
    if any(_ties(name, model) and name not in model.tensors for name in names for model in (base, *experts)):
        lines += [
            "A tied head is the embedding once more and is not stored; an untied one is a matrix of its own. What lies",
            "between them is no fine-tuning: keep the base's, or untie the tied models first (docs/vocabulary.md).",
        ]
    if any(name not in base.tensors and not _ties(name, base) for name in names):
        lines += [
            "What the base lacks (a vision tower, a projector) is written out by `keep: owner` or `keep: <model>`;",
            "`keep: base` leaves it out (docs/multimodal.md).",
        ]
    return lines


def _remedy(refused: Sequence[str], names: Collection[str]) -> str:
    """The rule, ready to paste, that keeps the refused tensors of the base, and only them."""
    patterns = _patterns(refused, names)
    shown = [f"        - {json.dumps(pattern)}" for pattern in patterns[:_PATTERNS]]
    if len(patterns) > _PATTERNS:
        shown.append(f"        # and {len(patterns) - _PATTERNS} more")
    return (
        "to have these as they are in the base (left out where it has none), put first among the recipe's rules:\n"
        "  rules:\n    - keep: base\n      match:\n" + "\n".join(shown)
    )


def _patterns(refused: Sequence[str], names: Collection[str]) -> list[str]:
    """Patterns for exactly these names: with ``*`` for numbers where all that then matches is refused too."""
    patterns: dict[str, None] = {}
    taken = set(refused)
    checked: dict[str, bool] = {}
    for name in refused:
        wide = pattern_of(name, any_number=True)
        if wide not in checked:
            checked[wide] = all(other in taken for other in names if matches(other, [wide]))
        patterns[wide if checked[wide] else pattern_of(name)] = None
    return list(patterns)
