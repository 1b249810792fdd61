"""Parameter values that vary by tensor, written as in mergekit: by depth among the layers, by text in the name.

A *setting* is one value; a list of values, interpolated from the first layer to the last; ``{filter, value}`` or a list
of these, of which the first counts whose filter the tensor's name contains (``*`` or none: every name).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from svc_dist.errors import RecipeError
from svc_dist.methods.parameters import Deferred, Parameter


def check_setting(parameter: Parameter, setting: Any, owner: str) -> None:
    """Raise RecipeError naming ``owner`` unless the parameter may have every value of a setting."""
    for condition in _conditions(setting, owner):
        value = condition["value"]
        for each in value if isinstance(value, list) else [value]:
            parameter.check(each, owner)
        if value == [] or (isinstance(value, list) and parameter.kind is int):
            what = "an empty list" if value == [] else f"a list, but {parameter.name} is a whole number"
            raise RecipeError(f"{owner}: {what}", "give it one value", code="value-not-allowed")


def typed(parameter: Parameter, setting: Any, owner: str) -> list[dict[str, Any]]:
    """A setting as conditions, with every value as the parameter's type. Raises RecipeError naming ``owner``."""

    def read(value: Any) -> Any:
        return [read(each) for each in value] if isinstance(value, list) else parameter.check(value, owner)

    return [{**condition, "value": read(condition["value"])} for condition in _conditions(setting, owner)]


def filters(setting: Any) -> Iterator[str]:
    """The texts that a filter looks for in names."""
    for condition in _conditions(setting, ""):
        if condition.get("filter") not in (None, "", "*"):
            yield condition["filter"]


def _conditions(setting: Any, owner: str) -> list[Mapping[str, Any]]:
    """A setting as a list of ``{filter, value}``."""
    if isinstance(setting, Mapping):
        setting = [setting]
    if not isinstance(setting, list) or not any(isinstance(item, Mapping) for item in setting):
        return [{"value": setting}]
    for item in setting:
        if not isinstance(item, Mapping) or not {"value"} <= set(item) <= {"filter", "value"}:
            raise RecipeError(
                f"{owner}: {item!r} is not a condition",
                "write {filter: part of a name, value: ...}, and last of all {value: ...} for all other tensors",
                code="condition-malformed",
            )
        if not isinstance(item.get("filter"), str | None):
            raise RecipeError(f"{owner}: the filter {item['filter']!r} is not text", code="condition-malformed")
    return setting


@dataclass(frozen=True)
class Varying(Deferred):
    """A parameter that depends on the tensor: the value of the first of ``settings`` that has one, else the default."""

    parameter: Parameter
    settings: tuple[Any, ...]

    def at(self, name: str, depth: float) -> Any:
        """The value for a tensor. Raises RecipeError where no condition holds for a weight or t: none is usual."""
        for setting in self.settings:
            for condition in _conditions(setting, ""):
                text = condition.get("filter")
                if text is None or text == "*" or text in name:
                    return self._interpolated(condition["value"], depth)
        if self.parameter.name in ("weight", "t"):  # mergekit asks for these
            raise RecipeError(
                f"none of the conditions for {self.parameter.name} holds",
                "end the list with {value: ...} for all other tensors",
                code="weight-not-given",
            )
        return self.parameter.default

    def _interpolated(self, value: Any, depth: float) -> Any:
        kind = self.parameter.kind
        if not isinstance(value, list):
            return kind(value)
        position = depth * (len(value) - 1)
        first = int(position)
        if kind is not float:
            return value[first]
        share = position - first
        return kind((1 - share) * value[first] + share * value[min(len(value) - 1, first + 1)])
