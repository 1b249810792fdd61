"""Quantised models as the merge sees them: each weight one tensor, whatever it is stored in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from svc_dist.checkpoint.adapters.adapter import OpenedModel
from svc_dist.checkpoint.formats.decoded import decoded_checkpoint
from svc_dist.errors import PlanError
from svc_dist.recipe.resolved import ResolvedRecipe
from svc_dist.sizes import counted


def decoded_models(recipe: ResolvedRecipe, opened: Sequence[OpenedModel]) -> list[OpenedModel]:
    """The models with the weights that their codes stand for, in place of codes and scales.

    Raises PlanError where the base is quantised and the recipe does not say what to write, DamagedInputError naming the
    location for codes and scales that do not go together.
    """
    models = [
        one if one.model is None else replace(one, model=decoded_checkpoint(one.model, recipe.access)) for one in opened
    ]
    base = models[0].model
    coded = [] if base is None else [name for name, spec in base.tensors.items() if spec.codec is not None]
    if base is not None and coded and recipe.quantization != "none":
        why = "svc_dist reads this format, but does not write it yet"
        if recipe.quantization == "base":
            why = f"{recipe.origin.at('quantization')}: {why}"
        raise PlanError(
            f"{base.location} is quantised ({counted(len(coded), 'tensor')} like {coded[0]}): {why}",
            "write `quantization: none` in the recipe for a merged model in bfloat16",
            code="quantization-choice",
        )
    return models
