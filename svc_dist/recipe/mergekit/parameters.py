"""mergekit's parameters that svc_dist accepts without effect, or does not have."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from svc_dist.recipe.origin import nearest
from svc_dist.recipe.schema import Recipe

#: Parameters that are accepted and have no effect.
WITHOUT_EFFECT = {"int8_mask": "masks take no memory in svc_dist"}

#: mergekit's parameters that svc_dist does not have, by method and name: what to do instead.
_PARAMETERS = {
    ("task_arithmetic", "density"): "mergekit ignores it; remove it, or use ties or dare_linear",
    ("task_arithmetic", "rescale"): "mergekit ignores it; remove it",
}


def parameter_hint(method: str, name: str, known: Sequence[str]) -> str:
    """A hint for a parameter that a method does not take."""
    return _PARAMETERS.get((method, name)) or nearest(name, known)


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
