"""A method's and a calibration's parameters made complete: each name and value checked, defaults filled in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from svc_dist.errors import RecipeError
from svc_dist.methods.method import Method
from svc_dist.methods.registry import CALIBRATIONS, METHODS
from svc_dist.recipe.mergekit import WITHOUT_EFFECT, method_hint, parameter_hint
from svc_dist.recipe.origin import Origin, nearest
from svc_dist.recipe.varying import Varying, check_setting, varies


def find_method(name: Any, where: str) -> Method:
    """The merge method of this name. Raises RecipeError."""
    if not isinstance(name, str) or name not in METHODS:
        raise RecipeError(f"{where}: there is no merge method '{name}'", method_hint(str(name), METHODS))
    return METHODS[name]


def complete_parameters(
    method: Method,
    own: Mapping[str, Any],
    common: Mapping[str, Any],
    experts: Sequence[Mapping[str, Any]],
    base: Mapping[str, Any] | None,
    where: str,
) -> dict[str, Any]:
    """Every parameter of a method: from ``own``, else the expert's, else from ``common``, else the default.

    ``base``: the base's parameters where it takes part with a weight of its own; ``where``: what a message begins with
    where values do not go together. Raises RecipeError.
    """
    try:
        return method.complete(
            len(experts),
            _settings(method, own, common),
            [_settings(method, own, entry, common) for entry in experts],
            None if base is None else _settings(method, base, common),
        )
    except RecipeError as error:
        raise RecipeError(f"{where}: {error.message}", error.hint) from None


def _settings(method: Method, *layers: Mapping[str, Any]) -> dict[str, Any]:
    """Each parameter's setting in the first of ``layers`` that has one; all of them where it may vary by tensor."""
    settings: dict[str, Any] = {}
    for parameter in method.all_parameters:
        given = [layer[parameter.name] for layer in layers if parameter.name in layer]
        if given:
            settings[parameter.name] = Varying(parameter, tuple(given)) if varies(given[0]) else given[0]
    return settings


def check_parameters(method: Method, given: Any, origin: Origin, *path: str | int, per_model: bool = False) -> None:
    """Names and values that the method takes, at ``path``. ``per_model``: of one expert. Raises RecipeError."""
    if not isinstance(given, Mapping):
        raise RecipeError(f"{origin.at(*path)}: parameters must be a mapping, like {{weight: 0.3}}")
    for name, value in given.items():
        where = origin.at(*path, name)
        if name in WITHOUT_EFFECT:
            continue
        parameter = method.parameter(name)
        if parameter is None:
            raise RecipeError(
                f"{where}: {method.name} takes no parameter '{name}'",
                parameter_hint(method.name, name, [known.name for known in method.all_parameters]),
            )
        if per_model and not parameter.per_model:
            raise RecipeError(
                f"{where}: '{name}' is one value for all experts", "put it under the top-level parameters"
            )
        check_setting(parameter, value, f"{where}: {method.name}")


def resolve_calibration(
    given: Mapping[str, Any] | None, experts: int, origin: Origin, *path: str | int
) -> dict[str, Any] | None:
    """A calibration that stands at ``path``, complete; None for none. Raises RecipeError."""
    if given is None or given.get("method") == "none":
        return None
    name = given.get("method")
    if name is None:
        raise RecipeError(f"{origin.at(*path)}: the key 'method' is missing", "write it like {method: svc, alpha: 0.5}")
    if not isinstance(name, str) or name not in CALIBRATIONS:
        raise RecipeError(
            f"{origin.at(*path)}: there is no calibration '{name}'", nearest(str(name), [*CALIBRATIONS, "none"])
        )
    known = [parameter.name for parameter in CALIBRATIONS[name].parameters]
    for key in given:
        if key not in ("method", *known):
            raise RecipeError(f"{origin.at(*path, key)}: {name} takes no parameter '{key}'", nearest(key, known))
    return CALIBRATIONS[name].complete(given, experts, lambda key: origin.at(*path, key))
