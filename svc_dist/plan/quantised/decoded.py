"""Quantised models as the merge sees them: each weight one tensor, whatever it is stored in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from svc_dist.checkpoint.adapters.adapter import OpenedModel
from svc_dist.checkpoint.formats.decoded import decoded_checkpoint
from svc_dist.recipe.resolved import ResolvedRecipe


def decoded_models(recipe: ResolvedRecipe, opened: Sequence[OpenedModel]) -> list[OpenedModel]:
    """The models with the weights that their codes stand for, in place of codes and scales.

    Where the base is quantised and the recipe does not ask for weights, all stay as they are: rules may keep the codes.
    Raises DamagedInputError naming the location for codes and scales that do not go together.
    """

    def decoded(one: OpenedModel) -> OpenedModel:
        return one if one.model is None else replace(one, model=decoded_checkpoint(one.model, recipe.access))

    base = decoded(opened[0])
    if recipe.quantization != "none" and any(spec.codec is not None for spec in base.tensors.values()):
        return list(opened)
    return [base, *map(decoded, opened[1:])]
