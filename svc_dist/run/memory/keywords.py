"""Methods and calibrations as keywords of the Python functions: a list has one value for each expert."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from svc_dist.errors import RecipeError, require_choice
from svc_dist.methods.auto.choice import AUTO
from svc_dist.methods.calibration.chain import chained
from svc_dist.methods.method import Method
from svc_dist.methods.registry import CALIBRATIONS, METHODS


def complete_parameters(method: Method, keywords: Mapping[str, Any], experts: int) -> dict[str, Any]:
    """Complete parameters from keywords. Raises RecipeError."""
    shared, by_expert = _by_expert(method, keywords, experts)
    return method.complete(experts, shared, by_expert)


def complete_calibration(given: object, experts: int) -> dict[str, Any] | None:
    """The complete settings of a calibration from its name or settings, or of a list of them in order; None for none.

    Raises RecipeError.
    """
    if given is None or given == "none" or (isinstance(given, Mapping) and given.get("method") == "none"):
        return None
    return chained([_complete(one, experts) for one in (given if isinstance(given, list | tuple) else [given])])


def _complete(given: object, experts: int) -> dict[str, Any]:
    settings = {"method": given} if isinstance(given, str) else given
    if not isinstance(settings, Mapping):
        raise RecipeError(
            f"calibrate is {given!r}, but must be a name, a mapping with the name as its `method`, or a list of them"
        )
    require_choice("calibrate", settings.get("method"), CALIBRATIONS)
    return CALIBRATIONS[settings["method"]].complete(settings, experts)


def recipe_data(
    experts: Sequence[str], method: str, calibrate: Any, dtype: str | None, keywords: Mapping[str, Any]
) -> dict[str, Any]:
    """The data of a recipe for these experts from keywords. Raises RecipeError."""
    require_choice("method", method, (*METHODS, AUTO))
    shared: dict[str, Any] = dict(keywords)  # auto takes none: the recipe is refused with any
    by_expert: list[dict[str, Any]] = [{} for _ in experts]
    if method != AUTO:
        shared, by_expert = _by_expert(METHODS[method], keywords, len(experts))
        for parameter in METHODS[method].all_parameters:
            if parameter.per_model and parameter.name in shared:  # under `parameters` it would be the base's too
                value = shared.pop(parameter.name)
                by_expert = [{**own, parameter.name: value} for own in by_expert]
    models = [{"model": name, "parameters": own} for name, own in zip(experts, by_expert, strict=True)]
    given = {"calibrate": calibrate, "dtype": dtype}
    data = {"models": models, "merge_method": method, "parameters": shared}
    return data | {key: value for key, value in given.items() if value is not None}


def _by_expert(
    method: Method, keywords: Mapping[str, Any], experts: int
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The parameters that all experts share, and those of each."""
    shared = {name.rstrip("_"): value for name, value in keywords.items()}  # lambda_, as lambda is Python's keyword
    method.refuse_unknown(shared)
    by_expert: list[dict[str, Any]] = [{} for _ in range(experts)]
    for parameter in method.all_parameters:
        values = shared.get(parameter.name)
        if not parameter.per_model or not isinstance(values, list | tuple):
            continue
        if len(values) != experts:
            raise RecipeError(f"{method.name}: {len(values)} values of {parameter.name} for {experts} deltas")
        for settings, value in zip(by_expert, shared.pop(parameter.name), strict=True):
            settings[parameter.name] = value
    return shared, by_expert
