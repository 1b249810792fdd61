"""Warnings about keys of a recipe that have no effect, or another one than in mergekit."""

from __future__ import annotations

from collections.abc import Iterator

from svc_dist.errors import Warned, warned
from svc_dist.methods.registry import METHODS
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
    yield from _weights(recipe, base, origin)
    if recipe.merge_method == "linear":
        if base is None and recipe.base_model is not None:
            yield from _base_of_linear(recipe, origin)
    elif base is not None and not _takes_part(recipe) and set(recipe.models[base].parameters) - WITHOUT_EFFECT:
        yield warned("no-effect", f"{origin.at('models', base, 'parameters')}: has no effect: this model is the base")
    if recipe.parameters.get("rescale") is True and recipe.merge_method in ("della", "della_linear"):
        yield warned(
            "rescale-differs",
            f"{origin.at('parameters', 'rescale')}: divides kept entries by their probability of being kept, as "
            "in the paper; mergekit scales a tensor to its former L1 norm",
        )
    if recipe.chat_template in _TEMPLATES:
        yield warned(
            "template-differs",
            f"{origin.at('chat_template')}: '{recipe.chat_template}' is the format that models were trained with; "
            f"mergekit's template of this name has {_TEMPLATES[recipe.chat_template]}",
        )
    if recipe.out_dtype is not None and recipe.dtype not in (None, "float32"):
        yield warned(
            "no-effect",
            f"{origin.at('dtype')}: has no effect, because out_dtype is given: svc_dist computes in float32, or in "
            "float64 with `--precision float64`",
        )


#: How mergekit's chat templates of these names differ.
_TEMPLATES = {
    "llama3": "a line break after each <|eot_id|>",
    "alpaca": "no line break before the last '### Response:', and no end-of-text token after an answer",
    "exaone": "spaces before each line and after each question",
}


def _takes_part(recipe: Recipe) -> bool:
    """Whether a base that is listed among the models is one of those that are merged."""
    policy = METHODS[recipe.merge_method].base
    return policy == "model" or (policy == "no base" and recipe.base_model is None)


def _weights(recipe: Recipe, base: int | None, origin: Origin) -> Iterator[Warned]:
    """A warning about models without a weight beside models that have one."""
    method = METHODS[recipe.merge_method]
    if method.parameter("weight") is None or "weight" in recipe.parameters:
        return
    idle = base if method.base == "origin" or (method.base == "no base" and recipe.base_model is not None) else None
    taking = [number for number in range(len(recipe.models)) if number != idle]
    missing = [number for number in taking if "weight" not in recipe.models[number].parameters]
    if missing and len(missing) < len(taking):
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        yield warned(
            "weight-missing",
            f"{origin.at('models', missing[0])}{more}: has no weight, so svc_dist takes the default 1; mergekit stops",
        )


def _base_of_linear(recipe: Recipe, origin: Origin) -> Iterator[Warned]:
    """A warning about a base that ``linear`` does not list."""
    where = origin.at("base_model")
    if "weight" in recipe.parameters:
        yield warned(
            "base-merged",
            f"{where}: linear merges the base too, with the weight of `parameters`, as mergekit does; to leave it out, "
            "write the weights under the models",
        )
    elif any("weight" in entry.parameters for entry in recipe.models):
        yield warned(
            "base-not-merged",
            f"{where}: linear does not merge the base, because it is not listed under models; mergekit stops, because "
            "the base has no weight",
        )
