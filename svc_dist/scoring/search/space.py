"""What a search tries: the dimensions of its values, and the entry of ``outputs`` that a trial's values make."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from svc_dist.errors import RecipeError
from svc_dist.methods.calibration.chain import names
from svc_dist.methods.parameters import Parameter
from svc_dist.methods.registry import CALIBRATIONS, METHODS
from svc_dist.recipe.evaluation.axes import AxisEntry
from svc_dist.recipe.origin import nearest
from svc_dist.recipe.resolved import ResolvedRecipe

_CODE = "search-refused"


@dataclass(frozen=True)
class Dimension:
    """One value of each trial: any between ``low`` and ``high``, or one of ``values``."""

    name: str
    low: float = 0.0
    high: float = 1.0
    values: tuple[Any, ...] = ()
    log: bool = False
    whole: bool = False

    def at(self, share: float) -> Any:
        """The value at a share from 0 to 1 of the way."""
        if self.values:
            return self.values[min(int(share * len(self.values)), len(self.values) - 1)]
        low, high = (math.log(self.low), math.log(self.high)) if self.log else (self.low, self.high)
        value = low + share * (high - low)
        return self.rounded(math.exp(value) if self.log else value)

    def rounded(self, value: float) -> Any:
        """A value with few digits, inside of the range."""
        rounded = round(value) if self.whole else float(f"{value:.4g}")
        return min(max(rounded, self.low), self.high) if not self.whole else int(min(max(rounded, self.low), self.high))

    def spaced(self, count: int) -> tuple[Any, ...]:
        """Evenly spaced values from the lowest to the highest."""
        return tuple(dict.fromkeys(self.at(number / (count - 1)) for number in range(count)))


@dataclass(frozen=True)
class Axis:
    """A key of the recipe, the dimensions of its values, and where it is asked for.

    ``path``: of the key in an entry of ``outputs``; ``("weights", number)`` for the weight of one model.
    ``own``: the weights of all models, where it sets some of them.
    """

    path: tuple[str | int, ...]
    dimensions: tuple[Dimension, ...]
    where: str
    filters: tuple[str, ...] = ()
    own: tuple[float, ...] = ()

    def value(self, trial: Mapping[str, Any]) -> Any:
        """The value of the key for a trial."""
        values = [trial[one.name] for one in self.dimensions]
        if self.filters:
            conditions = [{"filter": text, "value": one} for text, one in zip(self.filters, values, strict=False)]
            return [*conditions, {"value": values[-1]}]
        return values if len(values) > 1 else values[0]


@dataclass(frozen=True)
class Space:
    """The axes of a search."""

    axes: tuple[Axis, ...]

    @property
    def dimensions(self) -> tuple[Dimension, ...]:
        return tuple(one for axis in self.axes for one in axis.dimensions)

    @property
    def size(self) -> int | None:
        """How many combinations there are; None where a range has any number of values."""
        counts = [len(one.values) for one in self.dimensions]
        return math.prod(counts) if all(counts) else None

    def combinations(self) -> Iterator[dict[str, Any]]:
        """Every combination, of dimensions with lists of values."""
        names = [one.name for one in self.dimensions]
        for values in itertools.product(*(one.values for one in self.dimensions)):
            yield dict(zip(names, values, strict=True))

    def entry(self, trial: Mapping[str, Any], path: str) -> dict[str, Any]:
        """The entry of ``outputs`` for a trial's values; without any, for the recipe as it is."""
        entry: dict[str, Any] = {"path": path}
        for axis in self.axes if trial else ():
            value, owner = axis.value(trial), str(axis.path[0])
            if owner == "weights":
                weights = entry.setdefault("weights", list(axis.own))
                for number in range(len(weights)) if len(axis.path) == 1 else (int(axis.path[1]),):
                    weights[number] = value
            elif len(axis.path) == 1:
                entry[owner] = {"method": value} if isinstance(value, str) else value
            else:
                entry.setdefault(owner, {})[str(axis.path[1])] = value
        return entry

    def describe(self) -> dict[str, Any]:
        """Plain data that tells one search from another."""
        return {one.name: list(one.values) or {"range": [one.low, one.high], "log": one.log} for one in self.dimensions}


def space_of(recipe: ResolvedRecipe, given: Mapping[str, tuple[AxisEntry, str]]) -> Space:
    """The space of axes by key, each with where it stands. Raises RecipeError naming it."""
    if not given:
        raise RecipeError(
            "nothing is searched",
            "write `search: {lambda: [0.2, 1.0]}` in the recipe, or add --over lambda=0.2:1.0",
            code=_CODE,
        )
    axes = [_Request(recipe, key, entry, where).axis() for key, (entry, where) in given.items()]
    for first, second in itertools.combinations(axes, 2):
        if _overlap(_what(first), _what(second)):
            raise RecipeError(f"{second.where}: {first.where} sets the same value", "remove one of them", code=_CODE)
    return Space(tuple(axes))


def _what(axis: Axis) -> tuple[str | int, ...]:
    """What an axis sets: weights of all models are weights, however they are written."""
    return ("weights",) if axis.path == ("parameters", "weight") else axis.path


def _overlap(one: tuple[str | int, ...], other: tuple[str | int, ...]) -> bool:
    shorter = min(len(one), len(other))
    return one[:shorter] == other[:shorter]


@dataclass(frozen=True)
class _Request:
    """One key that is to be searched, as the user wrote it."""

    recipe: ResolvedRecipe
    key: str
    entry: AxisEntry
    where: str

    def axis(self) -> Axis:
        path, parameter = self._resolved()
        if path[0] == "calibrate" and (self.entry.layers or self.entry.filters):
            raise self._error("a calibration does not vary by tensor", "remove layers and filters")
        if path == ("parameters", "weight") or path[0] == "weights":
            return self._weights(path, parameter)
        if parameter is not None and parameter.per_model and path[0] == "parameters":
            self._refuse_own(parameter.name)
        return Axis(path, self._dimensions(parameter), self.where, tuple(self.entry.filters))

    def _resolved(self) -> tuple[tuple[str | int, ...], Parameter | None]:
        """The path of the key, and its parameter. Raises RecipeError."""
        owner, dot, name = self.key.partition(".")
        method = METHODS[self.recipe.results[0].default.method]
        calibrations = [CALIBRATIONS[one] for one in names(self.recipe.results[0].default.calibration)]
        own = {one.name: one for one in method.all_parameters}
        of_calibration = {one.name: one for calibration in calibrations for one in calibration.all_parameters}
        if self.key == "calibrate":
            if self.entry.grid is None:
                raise self._error("a calibration is one of a list", "write calibrate: {grid: [none, svc]}")
            return ("calibrate",), None
        if owner == "weight" and dot and "weight" in own:
            return ("weights", self._model(name)), own["weight"]
        if self.key in own or (owner == "parameters" and name in own):
            name = name or self.key
            return ("parameters", name), own[name]
        if self.key in of_calibration or (owner == "calibrate" and name in of_calibration):
            name = name or self.key
            return ("calibrate", name), of_calibration[name]
        if not calibrations and any(self.key in (p.name, f"calibrate.{p.name}") for p in _all_of_calibrations()):
            raise self._error("the recipe has no calibration", "add `calibrate: svc` to it")
        known = [*own, *of_calibration, "calibrate"]
        raise self._error(f"{method.name} has no value '{self.key}' to search", nearest(self.key, known))

    def _model(self, name: str) -> int:
        """The position of a model in the recipe's list. Raises RecipeError."""
        listed = [one for one in self.recipe.models if one.position is not None]
        for one in listed:
            if name in one.names and one.position is not None:
                return one.position
        raise self._error(f"no model is called '{name}'", nearest(name, [one.names[-1] for one in listed]))

    def _weights(self, path: tuple[str | int, ...], parameter: Parameter | None) -> Axis:
        """The weight of all models, or of one; weights of their own give way to it."""
        entries = self.recipe.plain["models"]
        common = self.recipe.plain.get("parameters", {}).get("weight", 1.0)
        own = [one.get("parameters", {}).get("weight") for one in entries]
        weights = [common if one is None else one for one in own]
        varying = self.entry.layers is not None or self.entry.filters
        if path[0] == "parameters" and (varying or all(one is None for one in own)):
            self._refuse_own("weight")
            return Axis(path, self._dimensions(parameter), self.where, tuple(self.entry.filters))
        if varying or not all(isinstance(one, int | float) for one in weights):
            raise self._error("weights of single models that vary by tensor cannot be searched", "search over lambda")
        if path[0] == "parameters":
            if len(set(weights)) > 1:
                raise self._error(
                    f"the models have weights of their own ({', '.join(f'{one:g}' for one in weights)})",
                    "search over lambda, which scales their sum, or over weight.NAME for one model",
                )
            path = ("weights",)
        return Axis(path, self._dimensions(parameter), self.where, own=tuple(map(float, weights)))

    def _refuse_own(self, name: str) -> None:
        """Raise RecipeError where a model has a value of its own, which would take precedence."""
        for number, one in enumerate(self.recipe.plain["models"]):
            if name in one.get("parameters", {}):
                place = self.recipe.origin.at("models", number, "parameters", name)
                raise self._error(f"{place} takes precedence over what is searched", "remove it there")

    def _dimensions(self, parameter: Parameter | None) -> tuple[Dimension, ...]:
        entry, whole = self.entry, parameter is not None and parameter.kind is int
        values = [*(entry.grid or entry.range or ())]
        if parameter is not None:
            values = [parameter.check(one, self.where) for one in values]
            if entry.range is not None and parameter.kind not in (int, float):
                raise self._error(f"{parameter.name} is no number", "list its values: {grid: [...]}")
        elif not all(isinstance(one, str | None) for one in values):
            raise self._error("calibrations are names", "write {grid: [none, svc]}")
        if parameter is None:
            values = ["none" if one is None else one for one in values]
            for one in values:
                if one not in ("none", *CALIBRATIONS):
                    raise self._error(f"there is no calibration '{one}'", nearest(one, ["none", *CALIBRATIONS]))
        if entry.grid is not None:
            one = Dimension(self.key, values=tuple(values), whole=whole)
        else:
            one = Dimension(self.key, values[0], values[1], log=entry.log, whole=whole)
            if entry.steps is not None:
                one = Dimension(self.key, values=one.spaced(entry.steps), whole=whole)
        return tuple(_named(one, name) for name in self._names())

    def _names(self) -> Sequence[str]:
        if self.entry.layers:
            return [f"{self.key}[{number}]" for number in range(self.entry.layers)]
        return [f"{self.key}[{text}]" for text in (*self.entry.filters, "others")] if self.entry.filters else [self.key]

    def _error(self, why: str, hint: str) -> RecipeError:
        return RecipeError(f"{self.where}: {why}", hint, code=_CODE)


def _named(dimension: Dimension, name: str) -> Dimension:
    return Dimension(name, dimension.low, dimension.high, dimension.values, dimension.log, dimension.whole)


def _all_of_calibrations() -> Iterator[Parameter]:
    for one in CALIBRATIONS.values():
        yield from one.all_parameters
