"""Tensors that cannot be merged until a rule says what to do: why, and the rule to add."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence

from svc_dist.checkpoint.checkpoint import Checkpoint
from svc_dist.checkpoint.dtype import FLOAT_DTYPES
from svc_dist.checkpoint.formats.table import quantised_tensors
from svc_dist.errors import printable
from svc_dist.plan.tensors.alias_groups import ties
from svc_dist.recipe.rules.keys import Vocab
from svc_dist.sizes import counted
from svc_dist.tensor_names import VOCABULARY_PATTERNS, is_output_head, matches, parse_name, pattern_of

_SHOWN = 8  # refused tensors in a message
#: Names of buffers that loaders compute anew.
_BUFFERS = ("*.inv_freq", "*.position_ids", "*.attn.bias", "*.attn.masked_bias", "*.masked_bias")
_PATTERNS = 40  # patterns in a remedy
#: What to do where all refused tensors are quantised.
QUANTISED = "merge the checkpoints that were not quantised, or dequantise these first"
_BELONGS = "belongs to the quantised tensor"


def refusal(
    name: str, base: Checkpoint, experts: Sequence[Checkpoint], vocab: Vocab, quantised: str | None
) -> str | None:
    """Why this tensor cannot be merged without a rule; None when it can.

    ``vocab``: the recipe's choice for tensors of other numbers of rows; ``quantised``: the reason for a quantised
    tensor.
    """
    spec = base.tensors.get(name)
    holders = [expert for expert in experts if name in expert.tensors]
    if spec is None:
        return f"in {listed(holders)}, but not in the base {base.location}"
    missing = [expert for expert in experts if name not in expert.tensors]
    if missing:
        why = "tied" if is_output_head(name) and all(ties(one.config, name) for one in missing) else "missing"
        return f"{why} in {listed(missing)}"
    if quantised is not None:
        return quantised
    for expert in experts:
        other = expert.tensors[name]
        allowed = vocab != "error" and has_other_rows(name, base, expert)
        if other.shape != spec.shape and not allowed:
            vocabulary = other.shape[1:] == spec.shape[1:] and matches(name, VOCABULARY_PATTERNS)
            why = " (another vocabulary)" if vocabulary else ""
            if not other.numel:
                why = " (empty: DeepSpeed ZeRO-3 saved it without gathering; save the model again)"
            return f"shape {list(spec.shape)} in the base, {list(other.shape)} in {expert.location}{why}"
        if (other.dtype in FLOAT_DTYPES) != (spec.dtype in FLOAT_DTYPES):
            return f"dtype {spec.dtype} in the base, {other.dtype} in {expert.location}"
    return None


def quantised(models: Sequence[Checkpoint]) -> dict[str, str]:
    """For each tensor that is quantised in some model, or belongs to such a tensor, why it is not merged."""
    reasons: dict[str, str] = {}
    for model in models:
        codes, companions = quantised_tensors(model.tensors, model.config, bool(model.quantisation_files))
        for name, format in codes.items():
            spec = model.tensors[name]
            what = f"{spec.dtype} in {model.location}/{spec.file} is quantised ({format.name})"
            reasons.setdefault(name, f"{what}, which svc_dist does not read: {format.instead}")
        for name, value in companions.items():
            reasons.setdefault(name, f"{_BELONGS} {printable(value)}; it has no meaning alone")
    return reasons


def listed(models: Sequence[Checkpoint]) -> str:
    return ", ".join(model.location for model in models)


def refusal_message(
    refused: Sequence[tuple[str, str]], base: Checkpoint, experts: Sequence[Checkpoint], renames: bool = False
) -> str:
    """The tensors that cannot be merged, and why. ``renames``: entries of ``rename`` are offered, which say enough."""
    remedy = "their names agree" if renames else "a rule says what to do"
    lines = [f"{counted(len(refused), 'tensor')} cannot be merged until {remedy}:"]
    codes = [one for one in refused if not one[1].startswith(_BELONGS)] or refused
    lines += [f"  {printable(name)}: {reason}" for name, reason in codes[:_SHOWN]]
    if len(codes) > _SHOWN:
        lines.append(f"  ... and {len(codes) - _SHOWN} more")
    if len(codes) < len(refused):
        lines.append(
            f"  {counted(len(refused) - len(codes), 'more tensor')} like {printable(_example(refused))}: companions of "
            "quantised tensors, which have no meaning alone"
        )
    return "\n".join(lines + ([] if renames else _explained([name for name, _ in refused], base, experts)))


def _example(refused: Sequence[tuple[str, str]]) -> str:
    return next(name for name, reason in refused if reason.startswith(_BELONGS))


def _explained(names: Sequence[str], base: Checkpoint, experts: Sequence[Checkpoint]) -> list[str]:
    """Explanations of frequent refusals, with alternatives to keeping the base's tensors."""
    lines = []
    if any(
        has_more_rows(name, base, expert) and matches(name, VOCABULARY_PATTERNS) for name in names for expert in experts
    ):
        lines += [
            "Experts with more tokens than the base: `vocab: union` gives the result the tokens of all models,",
            "`vocab: base` those of the base. Both match rows by token (docs/vocabulary.md).",
        ]
    if any(
        has_other_rows(name, base, expert)
        and not has_more_rows(name, base, expert)
        and matches(name, VOCABULARY_PATTERNS)
        for name in names
        for expert in experts
    ):
        lines += [
            "Experts with fewer tokens than the base: `vocab: common` merges the rows that all models have and keeps",
            "the base's others (docs/vocabulary.md).",
        ]
    if any(name not in base.tensors for name in names):
        lines += [
            "What the base lacks (a vision tower, a projector) is written out by `keep: owner` or `keep: <model>`;",
            "`keep: base` leaves it out (docs/multimodal.md).",
        ]
    return lines


def offer(refused: Sequence[str], names: Collection[str], base: Checkpoint, experts: Sequence[Checkpoint]) -> str:
    """A rule to paste where it makes a right model; elsewhere what to look at: most rules would drop what was learnt.

    Right is to keep buffers, and modules of the base that no expert has any tensor of, where experts bring none.
    """
    known = {_module(name) for expert in experts for name in expert.tensors}
    extra = any(name not in base.tensors for expert in experts for name in expert.tensors)
    if all(matches(name, _BUFFERS) or (not extra and _is_whole(name, base, known)) for name in refused):
        return remedy(refused, names)
    return (
        "no rule is offered to paste, because it would drop what experts learnt: check that they are fine-tunes of "
        "this base; see docs/vocabulary.md for tokens, docs/multimodal.md for names and towers, docs/tied.md for heads"
    )


def _is_whole(name: str, base: Checkpoint, known: Collection[str]) -> bool:
    """Whether a tensor belongs to a module of the base that no expert has, other than an output head."""
    return name in base.tensors and not is_output_head(name) and _module(name) not in known


def _module(name: str) -> str:
    """The layer that a tensor belongs to (one for multi-token prediction is a whole one), or its part of the model."""
    parsed = parse_name(name)
    if parsed.layer is not None:
        return f"{parsed.stack} {parsed.layer}"
    parts = name.split(".")
    return ".".join(parts[: 2 if parts[0] == "model" else 1])


def remedy(refused: Sequence[str], names: Collection[str]) -> str:
    """The rule, ready to paste, that keeps exactly the refused tensors as they are in the base."""
    patterns = _patterns(refused, names)
    shown = [f"        - {json.dumps(pattern)}" for pattern in patterns[:_PATTERNS]]
    if len(patterns) > _PATTERNS:
        shown.append(f"        # and {len(patterns) - _PATTERNS} more")
    return (
        "to have these as they are in the base (left out where it has none), put first among the recipe's rules:\n"
        "  rules:\n    - keep: base\n      match:\n" + "\n".join(shown)
    )


def _patterns(refused: Sequence[str], names: Collection[str]) -> list[str]:
    """Patterns for exactly these names: with ``*`` for numbers where every match is refused too."""
    patterns: dict[str, None] = {}
    all_refused = set(refused)
    exact: dict[str, bool] = {}
    for name in refused:
        wide = pattern_of(name, any_number=True)
        if wide not in exact:
            exact[wide] = all(other in all_refused for other in names if matches(other, [wide]))
        patterns[wide if exact[wide] else pattern_of(name)] = None
    return list(patterns)


def has_more_rows(name: str, base: Checkpoint, expert: Checkpoint) -> bool:
    return has_other_rows(name, base, expert) and expert.tensors[name].shape[0] > base.tensors[name].shape[0]


def has_other_rows(name: str, base: Checkpoint, expert: Checkpoint) -> bool:
    one, other = base.tensors.get(name), expert.tensors.get(name)
    if one is None or other is None or not one.shape or len(one.shape) != len(other.shape):
        return False
    return other.shape[0] != one.shape[0] and other.shape[0] > 0 and other.shape[1:] == one.shape[1:]
