"""The calibration that a recipe, a rule or an output asks for, or several in order."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from svc_dist.errors import RecipeError
from svc_dist.methods.calibration.chain import chained
from svc_dist.methods.registry import CALIBRATIONS
from svc_dist.recipe.origin import Origin, nearest
from svc_dist.recipe.rules.keys import Calibrate


def complete_calibration(
    given: Calibrate | None, experts: int, origin: Origin, *path: str | int
) -> dict[str, Any] | None:
    """A calibration that stands at ``path``, complete, or all of a list; None for none. Raises RecipeError."""
    if isinstance(given, list):
        if not given:
            raise RecipeError(
                f"{origin.at(*path)}: the list is empty", "write none, or svc", code="unknown-calibration"
            )
        return chained([_complete(one, experts, origin, *path, index) for index, one in enumerate(given)])
    return None if given is None or given.get("method") == "none" else _complete(given, experts, origin, *path)


def overridden(general: Calibrate | None, own: Calibrate | None) -> Calibrate | None:
    """The recipe's calibration with that of an output: in its place or, without a ``method``, key by key.

    Of several calibrations, a key goes to those that take it; one that none takes goes to the first, which refuses it.
    """
    if own is None:
        return general
    if isinstance(own, list) or "method" in own:
        return own
    if not isinstance(general, list):
        return {**(general or {}), **own}
    return [
        {**one, **{key: value for key, value in own.items() if index == _owner(general, key) or _takes(one, key)}}
        for index, one in enumerate(general)
    ]


def lacks_alpha(given: Calibrate | None) -> bool:
    """Whether some calibration that takes ``alpha`` is given none."""
    each = given if isinstance(given, list) else [given or {}]
    return any("alpha" not in one and _takes(one, "alpha") for one in each)


def _owner(given: list[dict[str, Any]], key: str) -> int | None:
    """The calibration that refuses a key which none takes."""
    return None if any(_takes(one, key) for one in given) else 0


def _takes(given: Mapping[str, Any], key: str) -> bool:
    calibration = CALIBRATIONS.get(str(given.get("method")))
    return calibration is not None and calibration.parameter(key) is not None


def _complete(given: Mapping[str, Any], experts: int, origin: Origin, *path: str | int) -> dict[str, Any]:
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
