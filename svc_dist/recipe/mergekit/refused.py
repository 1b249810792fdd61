"""Recipes of mergekit's other programs, and other programs' names of methods: refused by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from svc_dist.errors import RecipeError
from svc_dist.recipe.mergekit.parameters import MERGEKIT_METHODS
from svc_dist.recipe.mergekit.typos import meant
from svc_dist.recipe.origin import Origin, nearest

_MOE = ("mergekit-moe", "build the mixture with mergekit-moe; svc_dist merges it with other models of its architecture")
_EVOLVE = ("mergekit-evolve", "take the recipe that the search ends with, in its `genome` or `best_config.yaml`")
_STACK = ("bakllama", "write the layers as `slices` of merge_method: passthrough")

#: Keys that only recipes of other programs have.
_KEYS = {
    **dict.fromkeys(("experts", "shared_experts", "gate_mode", "experts_per_token"), _MOE),
    "genome": _EVOLVE,
    "layer_slices": _STACK,
}

#: Names of methods that people use, and the methods.
_NAMES = {
    "frankenmerge": "passthrough",
    "stack": "passthrough",
    "dare": "dare_ties' or 'dare_linear",
    "average": "linear",
    "mean": "linear",
    "lerp": "linear",
    "model_soup": "linear",
    "soup": "linear",
    "task_vector": "task_arithmetic",
    "stock": "model_stock",
}


def refuse_other_programs(data: Mapping[str, Any], origin: Origin) -> None:
    """Raise RecipeError for a recipe of another program than mergekit-yaml."""
    if data.get("merge_method") in ("moe", "mixtral", "frankenmoe"):
        _refuse("merge_method", _MOE, origin)
    for key, other in _KEYS.items():
        if key in data and not (data.get("merge_method") in MERGEKIT_METHODS and data.get("models")):
            _refuse(key, other, origin)


def method_hint(name: str, known: list[str]) -> str:
    """A hint for the name of a method that there is not."""
    plain = name.casefold().replace("-", "_").replace(" ", "_")
    close = _NAMES.get(plain) or meant(name, known)
    return f"did you mean '{close}'?" if close else nearest(plain, known)


def _refuse(key: str, other: tuple[str, str], origin: Origin) -> None:
    program, instead = other
    raise RecipeError(
        f"{origin.at(key)}: this is a recipe for {program}, which svc_dist does not replace", instead,
        code="other-program",
    )  # fmt: skip
