"""Quantised models as the merge sees them: each weight one tensor, whatever it is stored in."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import replace

from svc_dist.checkpoint.adapters.adapter import OpenedModel
from svc_dist.checkpoint.checkpoint import Checkpoint
from svc_dist.checkpoint.formats.logical import decoded
from svc_dist.checkpoint.header import TensorSpec
from svc_dist.errors import DamagedInputError, PlanError
from svc_dist.recipe.resolved import ResolvedRecipe
from svc_dist.sizes import counted
from svc_dist.storage.access import Access
from svc_dist.storage.open import open_storage


def decoded_models(recipe: ResolvedRecipe, opened: Sequence[OpenedModel]) -> list[OpenedModel]:
    """The models with the weights that their codes stand for, in place of codes and scales.

    Raises PlanError where the base is quantised and the recipe does not say what to write, DamagedInputError naming the
    location for codes and scales that do not go together.
    """
    models = [replace(one, model=None if one.model is None else _decoded(one.model, recipe.access)) for one in opened]
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


def _decoded(model: Checkpoint, access: Access) -> Checkpoint:
    sizes = {file.name: file for file in model.files}

    def shape_of(spec: TensorSpec) -> tuple[int, ...]:
        data = open_storage(model.location, access).read_pinned(sizes[spec.file], spec.start, spec.end)
        return struct.unpack(f"<{spec.numel}{'q' if spec.dtype == 'I64' else 'i'}", data)

    try:
        tensors, unneeded = decoded(model.tensors, model.config, bool(model.quantisation_files), shape_of)
    except DamagedInputError as error:
        raise DamagedInputError(f"{model.location}/{error.message}", error.hint, code=error.code) from None
    return replace(model, tensors=tensors, unneeded=unneeded) if len(tensors) < len(model.tensors) else model
