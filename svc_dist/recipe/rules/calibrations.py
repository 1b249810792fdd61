"""The calibration that a recipe, a rule or an output asks for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from svc_dist.errors import RecipeError
from svc_dist.methods.registry import CALIBRATIONS
from svc_dist.recipe.origin import Origin, nearest


def complete_calibration(
    given: Mapping[str, Any] | None, experts: int, origin: Origin, *path: str | int
) -> dict[str, Any] | None:
    """A calibration that stands at ``path``, complete; None for none. Raises RecipeError."""
    if given is None or given.get("method") == "none":
        return None
    name = given.get("method")
    if name is None:
        raise RecipeError(f"{origin.at(*path)}: the key 'method' is missing", "write {method: svc}", code="key-missing")
    if not isinstance(name, str) or name not in CALIBRATIONS:
        raise RecipeError(
            f"{origin.at(*path)}: there is no calibration '{name}'",
            nearest(str(name), [*CALIBRATIONS, "none"]),
            code="unknown-calibration",
        )
    known = [parameter.name for parameter in CALIBRATIONS[name].parameters]
    for key in given:
        if key not in ("method", *known):
            raise RecipeError(
                f"{origin.at(*path, key)}: {name} takes no parameter '{key}'",
                nearest(key, known),
                code="unknown-parameter",
            )
    return CALIBRATIONS[name].complete(given, experts, lambda key: origin.at(*path, key))
