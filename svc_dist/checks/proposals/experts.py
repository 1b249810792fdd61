"""What the models of a recipe are: whole models or adapters, their dtypes, and modules of other modalities."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from svc_dist.checkpoint.adapters.adapter import OpenedModel, open_expert
from svc_dist.checkpoint.checkpoint import Checkpoint, open_checkpoint
from svc_dist.checkpoint.dtype import FLOAT_DTYPES
from svc_dist.checkpoint.formats.codecs.texts import codec_of
from svc_dist.checkpoint.formats.decoded import decoded_checkpoint
from svc_dist.plan.hub_models import located
from svc_dist.recipe.presets import PRESETS
from svc_dist.recipe.resolved import ResolvedRecipe
from svc_dist.tensor_names import matches

BACKBONE = "llm-backbone-only"
_TOWERS, _LANGUAGE = (rule["match"] for rule in PRESETS[BACKBONE].values["rules"][:2])


@dataclass(frozen=True)
class Experts:
    """The base's dtypes by bytes, the kinds of the experts in words, how many are adapters to the base, and whether
    there are modules of other modalities beside a language model."""

    dtype: str
    kinds: tuple[str, ...]
    adapters: int
    towers: bool


def look(recipe: ResolvedRecipe) -> Experts:
    """Read the headers of a recipe's models. Raises RecipeError, DamagedInputError, StorageError."""
    recipe = located(recipe)
    base = decoded_checkpoint(open_checkpoint(recipe.models[0].location, recipe.access), recipe.access)
    opened = [open_expert(model.location, recipe.access, model.use) for model in recipe.models[1:]]
    experts = [
        one if one.model is None else replace(one, model=decoded_checkpoint(one.model, recipe.access)) for one in opened
    ]
    dtype = _dtype(base)
    return Experts(
        dtype,
        tuple(_kind(expert, dtype) for expert in experts),
        sum(expert.model is None for expert in experts),
        _has_towers([base, *(expert.model for expert in experts if expert.model is not None)]),
    )


def _kind(expert: OpenedModel, dtype: str) -> str:
    if expert.adapter is not None:
        rank = expert.adapter.config.rank
        over = "" if expert.model is None else "a model with "
        return f"{over}a LoRA adapter of rank {rank}"
    assert expert.model is not None
    own = _dtype(expert.model)
    return "a full fine-tune" + ("" if own == dtype else f", stored in {own}")


def _dtype(model: Checkpoint) -> str:
    """The dtype, or the quantised format, of most of a model's weights."""
    sizes: Counter[str] = Counter()
    for spec in model.tensors.values():
        stored = FLOAT_DTYPES.get(spec.dtype, spec.dtype) if spec.codec is None else codec_of(spec.codec).label
        sizes[stored] += spec.end - spec.start
    return sizes.most_common(1)[0][0] if sizes else "no"


def _has_towers(models: Sequence[Checkpoint]) -> bool:
    names = {name for model in models for name in model.tensors}
    towers = {name for name in names if matches(name, _TOWERS)}
    return bool(towers) and any(matches(name, _LANGUAGE) for name in names - towers)
