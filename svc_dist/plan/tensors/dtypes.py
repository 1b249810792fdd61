"""The dtype that each tensor is written in: a rule's, the recipe's, or the base's where a narrower one would do harm.

What is copied keeps its bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from msgspec import structs

from svc_dist.checkpoint.checkpoint import Checkpoint
from svc_dist.checkpoint.dtype import FLOAT_DTYPES, ITEM_SIZE, RECIPE_DTYPES
from svc_dist.errors import Warned, printable, warned
from svc_dist.plan.tensors.dispositions import Decision
from svc_dist.recipe.resolved import ResolvedRecipe
from svc_dist.sizes import counted
from svc_dist.tensor_names import matches

#: Tensors that a recipe's ``dtype`` of 16 bits leaves as wide as the base has them, by name, and why.
WIDE = {
    "it decides between experts": (
        "*e_score_correction_bias*", "*.expert_bias", "*.expert_biases", "*moe_statics*", "*router.bias",
        "*router_bias", "*gate.bias", "*correction_bias",
    ),
    "a scale": (
        "*_scale", "*.scale", "*_scales", "*.scales", "*_scale_inv", "*.logit_scale*", "logit_scale*", "*.temperature",
        "*global_scale*", "*per_dim_scale*",
    ),
    "rotary or position buffer": (
        "*inv_freq*", "*rotary_emb*", "*rotary_pos_emb*", "*freqs*", "*cos_cached", "*sin_cached", "*timescale*",
        "*embed_positions.weights", "*positional_encoding*", "*.pe", "*position_bias_buffer*",
    ),
    "state of a recurrent layer": (
        "*A_log*", "*.D", "D", "*dt_bias", "*dt_proj.bias", "*time_decay", "*time_first", "*time_faaaa",
    ),
    "statistics or mask": ("*running_mean", "*running_var", "*masked_bias", "*latent_mean", "*latent_std"),
}  # fmt: skip
#: The same, where most of the base is narrower than they are.
WIDE_IN_NARROW = {
    "a norm": (
        "*norm.weight", "*norm.bias", "*norm[0-9].*", "*norm_[0-9].*", "*layernorm*", "*LayerNorm*", "*layer_norm*",
        "*.ln_*", "*.ln[0-9].*", "*_norm.*", "norm.*",
    ),
    "an attention sink": ("*.sinks", "*.attention_sinks"),
}  # fmt: skip


def with_dtypes(recipe: ResolvedRecipe, base: Checkpoint, decisions: Sequence[Decision]) -> list[Decision]:
    """The decisions with the dtype of each tensor that is written, and in their reasons where that is not usual."""
    asked = None if recipe.dtype is None else RECIPE_DTYPES[recipe.dtype]
    narrow = asked is not None and _is_narrow(base)
    return [_with_dtype(recipe, asked, narrow, one) for one in decisions]


def warnings(recipe: ResolvedRecipe, base: Checkpoint, decisions: Sequence[Decision]) -> Iterator[Warned]:
    """A warning about tensors that are wider than the rest of the base, and that the recipe's dtype narrows."""
    if recipe.dtype is None or not _is_narrow(base):
        return
    narrowed = [
        one for one in decisions if one.spec is not None and one.disposition.kind == "merged" and one.dtype is not None
        and ITEM_SIZE[one.dtype] < ITEM_SIZE[one.spec.dtype] and _rule_dtype(recipe, one) is None
    ]  # fmt: skip
    if narrowed and (spec := narrowed[0].spec) is not None:
        yield warned(
            "dtype-narrows",
            f"{recipe.origin.at('dtype')}: narrows {counted(len(narrowed), 'tensor')} like {printable(spec.name)} to "
            f"{recipe.dtype}: {FLOAT_DTYPES[spec.dtype]} in the base, wider than most of it; "
            f"`dtype: {FLOAT_DTYPES[spec.dtype]}` in a rule keeps the width",
        )


def _with_dtype(recipe: ResolvedRecipe, asked: str | None, narrow: bool, decision: Decision) -> Decision:
    spec = decision.spec
    if spec is None or decision.codec is not None:
        return decision
    by_rule = _rule_dtype(recipe, decision)
    if spec.dtype not in FLOAT_DTYPES:
        return structs.replace(decision, dtype=spec.dtype)
    if by_rule is not None:
        return _because(decision, RECIPE_DTYPES[by_rule], f"as {by_rule}")
    if asked is None or decision.disposition.kind != "merged":
        return structs.replace(decision, dtype=spec.dtype)
    if ITEM_SIZE[asked] < 4 <= ITEM_SIZE[spec.dtype] and (why := _why_wide(spec.name, narrow)) is not None:
        return _because(decision, spec.dtype, f"stays {FLOAT_DTYPES[spec.dtype]}: {why}")
    return structs.replace(decision, dtype=asked)


def _because(decision: Decision, dtype: str, why: str) -> Decision:
    disposition = replace(decision.disposition, reason=f"{decision.disposition.reason}, {why}")
    return structs.replace(decision, dtype=dtype, disposition=disposition)


def _rule_dtype(recipe: ResolvedRecipe, decision: Decision) -> str | None:
    return None if decision.rule is None else recipe.rules[decision.rule].dtype


def _why_wide(name: str, narrow: bool) -> str | None:
    """Why a tensor stays as wide as the base has it; None for others. ``narrow``: most of the base is narrower."""
    tables = (WIDE, WIDE_IN_NARROW) if narrow else (WIDE,)
    return next((why for table in tables for why, patterns in table.items() if matches(name, patterns)), None)


def _is_narrow(base: Checkpoint) -> bool:
    """Whether most weights of the base have 16 bits."""
    floats = [spec for spec in base.tensors.values() if spec.dtype in FLOAT_DTYPES]
    return 2 * sum(spec.numel for spec in floats if ITEM_SIZE[spec.dtype] == 2) > sum(spec.numel for spec in floats)
