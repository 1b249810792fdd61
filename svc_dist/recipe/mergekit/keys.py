"""mergekit's keys that svc_dist does not support, and what to write instead."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from svc_dist.errors import RecipeError
from svc_dist.recipe.origin import Origin

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


def refuse(data: Mapping[str, Any], origin: Origin) -> None:
    """Raise RecipeError for keys that svc_dist does not support, with the line and what to write instead."""
    for key, (why, instead) in _KEYS.items():
        if key in data:
            raise RecipeError(f"{origin.at(key)}: {why}", _models_of(data) or instead)


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
