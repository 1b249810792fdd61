"""Warnings about keys of a recipe that have no effect, or another one than in mergekit."""

from __future__ import annotations

from collections.abc import Iterator

from svc_dist.errors import Warned, warned
from svc_dist.recipe.mergekit.parameters import WITHOUT_EFFECT
from svc_dist.recipe.origin import Origin
from svc_dist.recipe.schema import Recipe


def warnings(recipe: Recipe, base: int | None, spectral: bool, origin: Origin) -> Iterator[Warned]:
    """Warnings about keys that have no effect, or another one than in mergekit.

    ``base``: the number of the base under ``models``, None where it is not listed; ``spectral``: whether the recipe
    uses a spectral method.
    """
    if "fallback" in recipe.model_fields_set and not spectral:
        yield warned("no-effect", f"{origin.at('fallback')}: has no effect: {recipe.merge_method} merges every tensor")
    if recipe.merge_method == "linear":
        if base is None and "weight" in recipe.parameters:
            yield warned(
                "base-not-merged",
                f"{origin.at('base_model')}: linear does not merge the base, because it is not listed under models; "
                "mergekit would add it with the weight of `parameters`",
            )
    elif base is not None and set(recipe.models[base].parameters) - WITHOUT_EFFECT:
        yield warned("no-effect", f"{origin.at('models', base, 'parameters')}: has no effect: this model is the base")
    if recipe.parameters.get("rescale") is True and recipe.merge_method in ("della", "della_linear"):
        yield warned(
            "rescale-differs",
            f"{origin.at('parameters', 'rescale')}: divides kept entries by their probability of being kept, as "
            "in the paper; mergekit scales a tensor to its former L1 norm",
        )
    if recipe.out_dtype is not None and recipe.dtype not in (None, "float32"):
        yield warned(
            "no-effect",
            f"{origin.at('dtype')}: has no effect, because out_dtype is given: svc_dist computes in float32, or in "
            "float64 with `--precision float64`",
        )
