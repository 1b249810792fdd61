"""What a merge writes in codes: the weights that the base stores so, in the base's own format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec import structs

from svc_dist.checkpoint.checkpoint import Checkpoint
from svc_dist.checkpoint.header import TensorSpec
from svc_dist.errors import PlanError, RecipeError, printable
from svc_dist.plan.tensors.dispositions import Decision
from svc_dist.recipe.resolved import ResolvedRecipe

#: What is encoded: the dtype from which the tools of these formats quantise.
ENCODED_FROM = "BF16"
_TO_BFLOAT16 = "write `quantization: none` for a model in bfloat16"


def writes_codes(recipe: ResolvedRecipe) -> bool:
    """Whether weights that the base stores in codes are written in them."""
    return recipe.quantization != "none" and recipe.output == "model"


def with_codecs(recipe: ResolvedRecipe, base: Checkpoint, decisions: Sequence[Decision]) -> list[Decision]:
    """The decisions with the codec of each weight that is written in codes.

    Raises RecipeError for a rule's ``dtype`` of such a weight, PlanError for one whose rows are not the base's.
    """
    if not writes_codes(recipe) or not any(spec.codec is not None for spec in base.tensors.values()):
        return list(decisions)
    return [_with_codec(recipe, base.tensors, one) for one in decisions]


def _with_codec(recipe: ResolvedRecipe, stored: Mapping[str, TensorSpec], decision: Decision) -> Decision:
    of = stored.get(decision.name)
    if of is None or of.codec is None or decision.spec is None:
        return decision
    name = printable(decision.name)
    if decision.rule is not None and recipe.rules[decision.rule].dtype is not None:
        raise RecipeError(
            f"{recipe.origin.at('rules', decision.rule, 'dtype')}: the base stores {name} in codes, and the result too",
            f"take the dtype out, or {_TO_BFLOAT16}",
            code="quantised-dtype",
        )
    if decision.spec.shape != of.shape or decision.rows is not None:
        raise PlanError(
            f"{name}: its rows are matched by token, but the base stores it in codes, which fit its own rows",
            _TO_BFLOAT16,
            code="quantised-rows",
        )
    return structs.replace(decision, codec=of.codec, dtype=ENCODED_FROM)
