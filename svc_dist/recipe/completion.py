"""A method's and a calibration's parameters made complete: each name and value checked, defaults filled in."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from svc_dist.errors import RecipeError
from svc_dist.methods.parameters import Parameter
from svc_dist.methods.registry import CALIBRATIONS, METHODS, Calibration, Method
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
) -> dict[str, Any]:
    """Every parameter of a method: from ``own``, else the expert's, else from ``common``, else the default.

    ``base``: the base's parameters where it takes part with a weight of its own.
    """
    complete: dict[str, Any] = {}
    for parameter in method.all_parameters:
        name = parameter.name
        sources = [(own, entry, common) for entry in experts] if parameter.per_model else [(own, common)]
        values = [_value(parameter, [given[name] for given in each if name in given]) for each in sources]
        complete[name] = values if parameter.per_model else values[0]
    if method.takes_base:
        weight = method.parameter("weight")
        weights = [given["weight"] for given in (base or {}, common) if "weight" in given]
        complete["base_weight"] = 0.0 if base is None or weight is None else _value(weight, weights)
    return complete


def complete_calibration(
    calibration: Calibration, given: Mapping[str, Any], experts: int, where: Callable[[str], str]
) -> dict[str, Any]:
    """A calibration's name and every parameter, ``alpha`` resolved to ``1/K``. Raises RecipeError.

    ``where``: how messages say where a key stands.
    """
    for key in given:
        if key != "method" and calibration.parameter(key) is None:
            known = [parameter.name for parameter in calibration.parameters]
            raise RecipeError(f"{where(key)}: {calibration.name} takes no parameter '{key}'", nearest(key, known))
    complete: dict[str, Any] = {"method": calibration.name}
    for parameter in calibration.parameters:
        name = parameter.name
        value = given.get(name, parameter.default)
        complete[name] = None if value is None else parameter.check(value, f"{where(name)}: {calibration.name}")
    if complete.get("alpha") is None:
        complete["alpha"] = 1 / experts
    return complete


def check_parameters(method: Method, given: Any, origin: Origin, *path: str | int, per_model: bool = False) -> None:
    if not isinstance(given, Mapping):
        raise RecipeError(f"{origin.at(*path)}: parameters is a mapping, like {{weight: 0.3}}")
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


def _value(parameter: Parameter, settings: Sequence[Any]) -> Any:
    """The first of ``settings``, else the default; where it may depend on the tensor, all of them."""
    if not settings:
        return parameter.default if parameter.default is None else parameter.kind(parameter.default)
    return Varying(parameter, tuple(settings)) if varies(settings[0]) else parameter.kind(settings[0])


def varying(value: Any) -> bool:
    """Whether a complete parameter depends on the tensor, for any expert."""
    return any(isinstance(each, Varying) for each in (value if isinstance(value, list) else [value]))


def require_possible(method: Method, parameters: Mapping[str, Any], experts: int) -> None:
    """Parameters that go together, for as many experts as there are. Raises RecipeError."""
    if parameters.get("normalize") and method.name in ("linear", "task_arithmetic"):
        total = sum(parameters["weight"]) + parameters.get("base_weight", 0.0)
        if abs(total) < 1e-12:
            raise RecipeError(
                f"the weights add up to zero, which {method.name} cannot normalize",
                "change a weight, or set normalize: false",
            )
    if (reason := method.refusal(parameters, experts)) is not None:
        raise RecipeError(reason)


def resolve_calibration(
    given: Mapping[str, Any] | None, experts: int, origin: Origin, *path: str | int
) -> dict[str, Any] | None:
    if given is None or given.get("method") == "none":
        return None
    name = given.get("method")
    if name is None:
        raise RecipeError(f"{origin.at(*path)}: the key 'method' is missing", "write it like {method: svc, alpha: 0.5}")
    if not isinstance(name, str) or name not in CALIBRATIONS:
        raise RecipeError(
            f"{origin.at(*path)}: there is no calibration '{name}'", nearest(str(name), [*CALIBRATIONS, "none"])
        )
    return complete_calibration(CALIBRATIONS[name], given, experts, lambda key: origin.at(*path, key))
