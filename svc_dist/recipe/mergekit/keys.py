"""mergekit's keys that svc_dist does not support, and what to write instead."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from svc_dist.errors import RecipeError
from svc_dist.recipe.origin import Origin

#: mergekit's keys that svc_dist does not support: why, and what to write instead.
_KEYS = {
    "input_model_parameters": (
        "svc_dist does not support this key: parameters of a model belong to its entry",
        "write models: [{model: ..., parameters: {...}}]",
    ),
}


def refuse(data: Mapping[str, Any], origin: Origin) -> None:
    """Raise RecipeError for keys that svc_dist does not support, with the line and what to write instead."""
    for key, (why, instead) in _KEYS.items():
        if key in data:
            raise RecipeError(f"{origin.at(key)}: {why}", instead)
