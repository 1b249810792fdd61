"""Quantised models as the merge sees them: each weight one tensor, whatever it is stored in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from svc_dist.checkpoint.adapters.adapter import OpenedModel
from svc_dist.checkpoint.formats.decoded import decoded_checkpoint
from svc_dist.plan.quantised.ranges import with_ranges
from svc_dist.plan.quantised.written import writes_codes
from svc_dist.recipe.resolved import ResolvedRecipe


def decoded_models(recipe: ResolvedRecipe, opened: Sequence[OpenedModel]) -> list[OpenedModel]:
    """The models with the weights that their codes stand for, in place of codes and scales.

    The base has its scales of activations too where the result is written in its codes. Raises DamagedInputError naming
    the location for codes and scales that do not go together.
    """

    def decoded(one: OpenedModel, whole: bool = False) -> OpenedModel:
        return one if one.model is None else replace(one, model=decoded_checkpoint(one.model, recipe.access, whole))

    base = decoded(opened[0], writes_codes(recipe))
    if base.model is not None and writes_codes(recipe):
        base = replace(base, model=with_ranges(base.model, recipe.access))
    return [base, *map(decoded, opened[1:])]
