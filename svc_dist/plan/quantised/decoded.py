"""Quantised models as the merge sees them: each weight one tensor, whatever it is stored in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from svc_dist.checkpoint.adapters.adapter import OpenedModel
from svc_dist.checkpoint.checkpoint import Checkpoint
from svc_dist.checkpoint.formats.codecs.packed_integers import PackedIntegers
from svc_dist.checkpoint.formats.codecs.texts import codec_of
from svc_dist.checkpoint.formats.declarations import declared_sections
from svc_dist.checkpoint.formats.decoded import decoded_checkpoint
from svc_dist.plan.quantised.ranges import with_ranges
from svc_dist.plan.quantised.written import writes_codes
from svc_dist.recipe.resolved import ResolvedRecipe


def decoded_models(recipe: ResolvedRecipe, opened: Sequence[OpenedModel]) -> list[OpenedModel]:
    """The models with the weights that their codes stand for, in place of codes and scales.

    The base has its scales of activations too where the result is written in its codes. Models that are stored alike,
    as releases of one family often are, share their tensors. Raises DamagedInputError naming the location for codes and
    scales that do not go together.
    """
    known: list[tuple[Checkpoint, Checkpoint]] = []

    def decoded(one: OpenedModel) -> OpenedModel:
        model = one.model
        if model is None:
            return one
        for stored, weights in known:
            if _stored_alike(stored, model):
                return replace(one, model=replace(model, tensors=weights.tensors, unneeded=weights.unneeded))
        weights = decoded_checkpoint(model, recipe.access)
        if not _is_read_from(weights):
            known.append((model, weights))
        return replace(one, model=weights)

    base, *experts = map(decoded, opened)
    stored = opened[0].model
    if base.model is not None and stored is not None and writes_codes(recipe):
        carried = {name: stored.tensors[name] for name in base.model.unneeded}
        whole = replace(base.model, tensors={**base.model.tensors, **carried}) if carried else base.model
        base = replace(base, model=with_ranges(whole, recipe.access))
    return [base, *experts]


def _stored_alike(one: Checkpoint, other: Checkpoint) -> bool:
    """Whether two models have the same tensors at the same places and declare the same of how they are quantised."""
    declared = (list(declared_sections(model.config)) for model in (one, other))
    return (
        one.tensors == other.tensors
        and next(declared) == next(declared)
        and bool(one.quantisation_files) == bool(other.quantisation_files)
    )


def _is_read_from(model: Checkpoint) -> bool:
    """Whether the shape of some weight was read from a tensor, not from headers."""
    codecs = (codec_of(text) for text in {spec.codec for spec in model.tensors.values()} if text is not None)
    return any(isinstance(one, PackedIntegers) and one.group >= one.shape[1] for one in codecs)
