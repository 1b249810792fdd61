"""mergekit's spelling of recipes: what is done otherwise here, or not, said by name with what to do instead."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from svc_dist.errors import RecipeError
from svc_dist.recipe.origin import Origin, nearest
from svc_dist.recipe.schema import Recipe

#: Parameters that are taken and have no effect.
WITHOUT_EFFECT = {"int8_mask": "masks take no memory here"}

_KEYS = {
    "slices": "layers are not taken from different models: every tensor is merged with those of its name",
    "modules": "modules of one model are not told apart by this key",
    "input_model_parameters": "parameters of a model stand under its entry",
    "residual_weight": "layers are not taken from different models",
}
_INSTEAD = {
    "slices": "where every slice is a whole model, list the models under `models`; assembling layers is mergekit's own",
    "modules": "list the models under `models`; exceptions by name go into `rules`, towers of several modalities into "
    "`keep` (docs/multimodal.md)",
    "input_model_parameters": "put them there: models: [{model: ..., parameters: {...}}]",
    "residual_weight": "assembling layers is mergekit's own",
}
_UNION = (
    "resize the embeddings of base and experts to one vocabulary and merge then, or write `base` (docs/vocabulary.md)"
)

#: mergekit's methods that are none here, and what comes near.
_METHODS = {
    "nuslerp": "slerp, with the base as one of the two models; or task_arithmetic",
    "multislerp": "linear, or model_stock",
    "karcher": "linear, or model_stock",
    "nearswap": "slerp, or ties with a low density",
    "arcee_fusion": "ties or breadcrumbs with a low density",
    "ram": "ties, or dare_ties",
    "ramplus_tl": "ties, or dare_ties",
}
#: Parameters of mergekit that are none here, by method and name: why.
_PARAMETERS = {
    ("task_arithmetic", "density"): "mergekit takes it and passes over it; take it out, or use ties or dare_linear",
    ("task_arithmetic", "rescale"): "mergekit takes it and passes over it; take it out",
    ("model_stock", "filter_wise"): "the angle is that of whole tensors here; take it out",
    ("passthrough", "scale"): "a tensor is passed through as it is; scale a delta by task_arithmetic with lambda",
}


def refuse(data: Mapping[str, Any], origin: Origin) -> None:
    """Raise RecipeError for what mergekit does and we do not, naming the key, its line and what to do instead."""
    for key, why in _KEYS.items():
        if key in data:
            raise RecipeError(f"{origin.at(key)}: {why}", _models_of(data) or _INSTEAD[key])
    tokenizer = data.get("tokenizer")
    sources: dict[tuple[str, ...], Any] = {("tokenizer_source",): data.get("tokenizer_source")}
    if isinstance(tokenizer, Mapping):
        sources["tokenizer", "source"] = tokenizer.get("source", "union")
        for key in ("tokens", "pad_to_multiple_of"):
            if tokenizer.get(key) is not None:
                where = origin.at("tokenizer", key)
                raise RecipeError(f"{where}: embeddings are not rebuilt token by token", _UNION)
    for path, source in sources.items():
        if source == "union":
            raise RecipeError(f"{origin.at(*path)}: a union of vocabularies is not built here", _UNION)


def _models_of(data: Mapping[str, Any]) -> str | None:
    """The `models` that say the same as one slice of whole models, to paste."""
    try:
        (piece,) = data["slices"]
        ranges = {tuple(source["layer_range"]) for source in piece["sources"]}
        models = [source["model"] for source in piece["sources"]]
    except (KeyError, TypeError, ValueError):
        return None
    if len(ranges) != 1 or next(iter(ranges))[0] != 0 or len(set(models)) != len(models):
        return None
    last = next(iter(ranges))[-1]
    listed = "\n".join(f"    - model: {model}" for model in models)
    return f"if {last} layers are all that the models have, write in place of `slices`:\n  models:\n{listed}"


def method_hint(name: str, known: Mapping[str, Any]) -> str:
    """What to write in place of a merge method that there is not."""
    if name in _METHODS:
        return f"mergekit's {name} is not done here; near to it: {_METHODS[name]}"
    return nearest(name, known)


def parameter_hint(method: str, name: str, known: Sequence[str]) -> str:
    """What to write in place of a parameter that a method does not take."""
    return _PARAMETERS.get((method, name)) or nearest(name, known)


def warnings(recipe: Recipe, base: int | None, origin: Origin) -> Iterator[str]:
    """What a recipe says without effect, or with another than in mergekit. ``base``: its number under ``models``."""
    for path, parameters in all_parameters(recipe):
        for key in filter(WITHOUT_EFFECT.__contains__, parameters):
            yield f"{origin.at(*path, key)}: has no effect: {WITHOUT_EFFECT[key]}"
    if recipe.merge_method == "linear":
        if base is None and "weight" in recipe.parameters:
            yield (
                f"{origin.at('base_model')}: takes no part in linear, because it is not listed under models; "
                "mergekit would add it with the weight of `parameters`"
            )
    elif base is not None and set(recipe.models[base].parameters) - set(WITHOUT_EFFECT):
        yield f"{origin.at('models', base, 'parameters')}: have no effect: this is the base"
    if recipe.parameters.get("rescale") is True and recipe.merge_method in ("della", "della_linear"):
        yield (
            f"{origin.at('parameters', 'rescale')}: divides what is kept by its probability of being kept, as the "
            "paper does; mergekit scales a tensor to its former L1 norm"
        )
    if recipe.out_dtype is not None and recipe.dtype not in (None, "float32"):
        yield (
            f"{origin.at('dtype')}: has no effect beside out_dtype: arithmetic is float32, or float64 with "
            "`--precision float64`, whatever mergekit would compute in"
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
