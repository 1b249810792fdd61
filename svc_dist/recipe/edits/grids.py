"""Grids under ``outputs``: an entry with lists of values stands for an entry for each combination of them."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from svc_dist.errors import RecipeError
from svc_dist.recipe.origin import KeyPath, Line, Origin, nearest

MOST = 1_000  # results of one recipe
_PLACE = re.compile(r"\{([^{}]*)\}")
_FORM = "write it like {lambda: [0.3, 0.5], calibrate.alpha: [0.3, 0.6], parameters.density: [0.2, 0.4]}"
_CODE = "grid-refused"


def expanded(data: Any, origin: Origin) -> tuple[Any, Origin]:
    """A recipe's data with a list of ``outputs`` without grids, and its origin, which has the lines of their values.

    Raises RecipeError for a malformed grid, and for results of equal names.
    """
    outputs = data.get("outputs") if isinstance(data, Mapping) else None
    alone = isinstance(outputs, Mapping)
    entries: Any = [outputs] if alone else outputs
    if not isinstance(entries, list) or not any(map(_is_grid, entries)):
        return data, origin
    lines = {path: line for path, line in origin.lines.items() if path[:1] != ("outputs",) or len(path) == 1}
    results: list[Any] = []
    for index, entry in enumerate(entries):
        at: KeyPath = ("outputs",) if alone else ("outputs", index)
        if not _is_grid(entry):
            lines |= _moved(origin.lines, at, ("outputs", len(results)))
            results.append(entry)
            continue
        grid = _Grid(entry, origin, at)
        for result, own in grid.results():
            lines |= _moved(origin.lines, at, ("outputs", len(results)))
            lines |= {("outputs", len(results), *path): line for path, line in own.items()}
            results.append(result)
            if len(results) > MOST:
                raise RecipeError(
                    f"{origin.at(*at)}: the grid makes {grid.count:,} results, and a recipe has at most {MOST:,}",
                    "take fewer values",
                    code=_CODE,
                )
    return {**data, "outputs": results}, replace(origin, lines=lines)


def _is_grid(entry: Any) -> bool:
    return isinstance(entry, Mapping) and ("grid" in entry or isinstance(entry.get("lambda"), list))


def _moved(lines: Mapping[KeyPath, Line], old: KeyPath, new: KeyPath) -> dict[KeyPath, Line]:
    """The lines of the keys under ``old`` as those under ``new``."""
    return {(*new, *path[len(old) :]): line for path, line in lines.items() if path[: len(old)] == old}


class _Grid:
    """An entry of ``outputs`` with lists of values. ``axes``: each key's values and the path at which they stand."""

    def __init__(self, entry: Mapping[str, Any], origin: Origin, at: KeyPath) -> None:
        self.entry, self.origin, self.at = entry, origin, at
        self.axes: dict[str, tuple[list[Any], KeyPath]] = {}
        if isinstance(entry.get("lambda"), list):
            self._add("lambda", entry["lambda"], (*at, "lambda"))
        grid = entry.get("grid", {})
        if not isinstance(grid, Mapping):
            raise self._error((*at, "grid"), "a grid is a mapping of keys to lists", _FORM)
        for key, values in grid.items():
            self._add(key, values, (*at, "grid", key))
        self.count = math.prod(len(values) for values, _ in self.axes.values())
        self.names = self._names()

    def _add(self, key: str, values: Any, path: KeyPath) -> None:
        owner, _, name = key.partition(".")
        if key not in ("lambda", "calibrate") and not (owner in ("parameters", "calibrate", "only_where") and name):
            hint = (
                "a grid has lambda, calibrate, only_where.relative_difference, parameters.NAME and calibrate.NAME, "
                "like parameters.density"
            )
            raise self._error(path, f"'{key}' is no key of a grid", hint)
        key = "lambda" if key == "parameters.lambda" else key
        if not isinstance(values, list) or not values:
            raise self._error(path, f"{values!r} must be a list with at least one value", _FORM)
        if key in self.axes or (key == "lambda" and "lambda" in self.entry and path != (*self.at, "lambda")):
            raise self._error(path, f"{key} is given twice", "give it once")
        self.axes[key] = (values, path)

    def _names(self) -> dict[str, str]:
        """Each key by the name that folders have: its last part, or the whole where several end in it."""
        last = [key.rpartition(".")[2] for key in self.axes]
        return {key if last.count(short) > 1 else short: key for key, short in zip(self.axes, last, strict=True)}

    def results(self) -> Iterator[tuple[dict[str, Any], dict[KeyPath, Line]]]:
        """The entry of each result, and the lines of the values that the grid gives it."""
        template, seen = self._template(), set[str]()
        for numbers in itertools.product(*(range(len(values)) for values, _ in self.axes.values())):
            result = {key: value for key, value in self.entry.items() if key != "grid"}
            values: dict[str, Any] = {}
            lines: dict[KeyPath, Line] = {}
            for number, (key, (axis, path)) in zip(numbers, self.axes.items(), strict=True):
                values[key] = axis[number]
                _put(result, key, axis[number])
                line = next(
                    (self.origin.lines[one] for one in ((*path, number), path) if one in self.origin.lines), None
                )
                if line is not None:
                    lines[tuple(key.split("."))] = line
            folder = self._filled(template, values)
            if folder in seen:
                left = [name for name, key in self.names.items() if f"{{{name}}}" not in template]
                hint = f"add {{{left[0]}}} to the path" if left else "take each value once"
                raise self._error((*self.at, "path"), f"two results would be {folder}", hint)
            seen.add(folder)
            result["path"] = folder
            yield result, lines

    def _template(self) -> str:
        """The folder of a result, with ``{name}`` for a value."""
        default = "_".join(f"{name}-{{{name}}}" for name in self.names)
        given = self.entry.get("path")
        if given is None:
            return default
        if not isinstance(given, str):
            raise self._error((*self.at, "path"), f"{given!r} must be text", "write it like lambda-{lambda}")
        return given if _PLACE.search(given) else f"{given}/{default}"

    def _filled(self, template: str, values: Mapping[str, Any]) -> str:
        return _PLACE.sub(lambda place: _text(values[self._key(place[1])]), template)

    def _key(self, name: str) -> str:
        """The key that a path calls ``name``. Raises RecipeError."""
        if name not in self.names and name not in self.axes:
            raise self._error((*self.at, "path"), f"{{{name}}} is no key of the grid", nearest(name, self.names))
        return self.names.get(name, name)

    def _error(self, path: KeyPath, why: str, hint: str) -> RecipeError:
        return RecipeError(f"{self.origin.at(*path)}: {why}", hint, code=_CODE)


def _put(result: dict[str, Any], key: str, value: Any) -> None:
    """Put a value into an entry of ``outputs``."""
    owner, _, name = key.partition(".")
    if not name:
        result[key] = value
        return
    given = result.get(owner)
    own = {"method": given} if isinstance(given, str) else given
    result[owner] = {**own, name: value} if isinstance(own, Mapping) else {name: value}


def _text(value: Any) -> str:
    """A value in the name of a folder."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "-".join(map(_text, value))
    text = str(value).lower() if isinstance(value, bool | None) else str(value)
    return re.sub(r"[^\w.+-]", "_", text)
