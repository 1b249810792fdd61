"""mergekit's recipes: the differences, and what to write instead of the keys that svc_dist does not support."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from svc_dist.errors import RecipeError
from svc_dist.recipe.origin import Origin, nearest
from svc_dist.recipe.schema import Recipe

#: Parameters that are accepted and have no effect.
WITHOUT_EFFECT = {"int8_mask": "masks take no memory in svc_dist"}

#: mergekit's keys that svc_dist does not support: why, and what to write instead.
_KEYS = {
    "slices": (
        "svc_dist does not assemble layers of different models: it merges tensors of the same name",
        "list whole models under `models`; use mergekit to assemble layers",
    ),
    "modules": (
        "svc_dist does not support this key",
        "list the models under `models` and write exceptions as `rules`; `keep` copies the towers of other "
        "modalities (docs/multimodal.md)",
    ),
    "input_model_parameters": (
        "svc_dist does not support this key: parameters of a model belong to its entry",
        "write models: [{model: ..., parameters: {...}}]",
    ),
    "residual_weight": ("svc_dist does not assemble layers of different models", "use mergekit to assemble layers"),
}
_UNION = (
    "resize the embeddings of all models to one vocabulary first, or write `vocab: base` or `vocab: common` "
    "(docs/vocabulary.md)"
)

#: mergekit's parameters that svc_dist does not have, by method and name: what to do instead.
_PARAMETERS = {
    ("task_arithmetic", "density"): "mergekit ignores it; remove it, or use ties or dare_linear",
    ("task_arithmetic", "rescale"): "mergekit ignores it; remove it",
}


def refuse(data: Mapping[str, Any], origin: Origin) -> None:
    """Raise RecipeError for keys that svc_dist does not support, with the line and what to write instead."""
    for key, (why, instead) in _KEYS.items():
        if key in data:
            raise RecipeError(f"{origin.at(key)}: {why}", _models_of(data) or instead)
    tokenizer = data.get("tokenizer")
    sources: dict[tuple[str, ...], Any] = {("tokenizer_source",): data.get("tokenizer_source")}
    if isinstance(tokenizer, Mapping):
        sources["tokenizer", "source"] = tokenizer.get("source", "union")
        for key in ("tokens", "pad_to_multiple_of"):
            if tokenizer.get(key) is not None:
                where = origin.at("tokenizer", key)
                raise RecipeError(f"{where}: svc_dist does not rebuild embeddings token by token", _UNION)
    for path, source in sources.items():
        if source == "union":
            raise RecipeError(f"{origin.at(*path)}: svc_dist does not build a union of vocabularies", _UNION)


def _models_of(data: Mapping[str, Any]) -> str | None:
    """The `models` that replace one slice of whole models, to paste."""
    try:
        (piece,) = data["slices"]
        models = [source["model"] for source in piece["sources"]]
        ((first, last),) = {tuple(source["layer_range"]) for source in piece["sources"]}
        if first != 0 or len(set(models)) != len(models):
            return None
    except (KeyError, TypeError, ValueError):
        return None
    listed = "\n".join(f"    - model: {model}" for model in models)
    return f"if the models have {last} layers, replace `slices` with:\n  models:\n{listed}"


def parameter_hint(method: str, name: str, known: Sequence[str]) -> str:
    """A hint for a parameter that a method does not take."""
    return _PARAMETERS.get((method, name)) or nearest(name, known)


def warnings(recipe: Recipe, base: int | None, spectral: bool, origin: Origin) -> Iterator[str]:
    """Warnings about keys that have no effect, or another one than in mergekit.

    ``base``: the number of the base under ``models``, None where it is not listed; ``spectral``: whether the recipe
    uses a spectral method.
    """
    if "fallback" in recipe.model_fields_set and not spectral:
        yield f"{origin.at('fallback')}: has no effect: {recipe.merge_method} merges every tensor"
    for path, parameters in all_parameters(recipe):
        for key in filter(WITHOUT_EFFECT.__contains__, parameters):
            yield f"{origin.at(*path, key)}: has no effect: {WITHOUT_EFFECT[key]}"
    if recipe.merge_method == "linear":
        if base is None and "weight" in recipe.parameters:
            yield (
                f"{origin.at('base_model')}: linear does not merge the base, because it is not listed under models; "
                "mergekit would add it with the weight of `parameters`"
            )
    elif base is not None and set(recipe.models[base].parameters) - set(WITHOUT_EFFECT):
        yield f"{origin.at('models', base, 'parameters')}: has no effect: this model is the base"
    if recipe.parameters.get("rescale") is True and recipe.merge_method in ("della", "della_linear"):
        yield (
            f"{origin.at('parameters', 'rescale')}: divides kept entries by their probability of being kept, as "
            "in the paper; mergekit scales a tensor to its former L1 norm"
        )
    if recipe.out_dtype is not None and recipe.dtype not in (None, "float32"):
        yield (
            f"{origin.at('dtype')}: has no effect, because out_dtype is given: svc_dist computes in float32, or in "
            "float64 with `--precision float64`"
        )


def all_parameters(recipe: Recipe) -> Iterator[tuple[tuple[str | int, ...], Mapping[str, Any]]]:
    """Every ``parameters`` of a recipe, with the path at which it stands."""
    yield ("parameters",), recipe.parameters
    for n, entry in enumerate(recipe.models):
        yield ("models", n, "parameters"), entry.parameters
    yield ("fallback", "parameters"), recipe.fallback.get("parameters", {})
    for n, rule in enumerate(recipe.rules):
        yield ("rules", n, "parameters"), rule.parameters
    for n, output in enumerate(recipe.outputs):
        yield ("outputs", n, "parameters"), output.parameters
