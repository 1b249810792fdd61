"""Values that replace those of a recipe, as ``--set parameters.lambda=0.4`` gives them."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from svc_dist.errors import RecipeError
from svc_dist.methods.registry import CALIBRATIONS, METHODS
from svc_dist.recipe.origin import KeyPath, Line, Origin, nearest
from svc_dist.recipe.schema import Recipe
from svc_dist.recipe.yaml_lines import read_yaml
from svc_dist.storage.secrets import redact

_STEP = re.compile(r'(?:"([^"]+)"|([^".=]+))(\.|=|$)')
_FORM = 'write --set KEY=VALUE, like parameters.lambda=0.4 or models.0.parameters.weight=0.3 (a dot in a name: "a.b")'
#: Keys whose text is short for a mapping with it as ``method``.
_SHORT = ("calibrate", "fallback")
#: The keys of an entry of a list by which a change may name it.
_NAMES = ("name", "model", "path", "method")


def parse_changes(given: Sequence[str]) -> dict[str, Any]:
    """Texts like ``parameters.lambda=0.4`` as values by key; a value is YAML. Raises RecipeError."""
    changes: dict[str, Any] = {}
    for text in given:
        _, end = _steps(text, "=")
        key, value = text[: end - 1], text[end:]
        if key in changes:
            raise RecipeError(f"{_place(key)}: this key is given twice", "give it once", code="set-refused")
        changes[key], _ = read_yaml(value, _place(key))
    return changes


def changed_documents(documents: Sequence[tuple[Any, Origin]], changes: Mapping[str, Any]) -> list[tuple[Any, Origin]]:
    """The documents of a recipe with these values: a key that begins with a document's name is of that one, any other
    of the last. Raises RecipeError; see ``changed``."""
    names = [data.get("name") if isinstance(data, Mapping) else None for data, _ in documents]
    own: list[dict[str, Any]] = [{} for _ in documents]
    for key, value in changes.items():
        steps, _ = _steps(key, "")
        named = len(documents) > 1 and len(steps) > 1 and steps[0] in names
        own[names.index(steps[0]) if named else -1][key] = value
    every = zip(documents, own, names if len(documents) > 1 else [None], strict=True)
    return [changed(data, values, origin, name) for (data, origin), values, name in every]


def changed(data: Any, changes: Mapping[str, Any], origin: Origin, document: str | None = None) -> tuple[Any, Origin]:
    """A recipe's data with these values by key, and its origin, which names ``--set KEY`` for them.

    A key is a path with dots; a step into a list is a number, or the name of an entry. None removes what is there.
    ``document``: a name that a key may begin with. Raises RecipeError for a path that leads nowhere.
    """
    if not changes or not isinstance(data, Mapping):
        return data, origin
    data, lines = copy.deepcopy(dict(data)), dict(origin.lines)
    for key, value in changes.items():
        _Change(key, data, lines, document).make(copy.deepcopy(value))
    return data, replace(origin, lines=lines)


class _Change:
    """One change of the data and of the lines of its keys."""

    def __init__(self, key: str, data: dict[str, Any], lines: dict[KeyPath, Line], document: str | None) -> None:
        self.place, self.data, self.lines = _place(key), data, lines
        steps, _ = _steps(key, "")
        self.steps = steps[1:] if len(steps) > 1 and steps[0] == document else steps

    def make(self, value: Any) -> None:
        self._refuse_bare_parameter()
        holder: Any = self.data
        path: KeyPath = ()
        for number, step in enumerate(self.steps[:-1]):
            at = self._step(holder, step, path)
            path = (*path, at)
            if isinstance(holder, dict) and holder.get(at) is None:
                if value is None:
                    raise self._missing(step, holder)
                holder[at] = [] if self.steps[number + 1].isdigit() else {}
                self.lines[path] = self.place
            elif (*path, at)[0] in _SHORT and number < 2 and isinstance(holder[at], str):
                holder[at] = {"method": holder[at]}
            holder = holder[at]
        at = self._step(holder, self.steps[-1], path)
        path = (*path, at)
        if value is None:
            self._remove(holder, path)
        else:
            holder[at] = value
            self._forget(path)
            self.lines[path] = self.place

    def _step(self, holder: Any, step: str, path: KeyPath) -> str | int:
        """The key or the position that a step means in ``holder``, which stands at ``path``."""
        if isinstance(holder, dict):
            return step
        where = self.steps[len(path) - 1] if path else ""
        if not isinstance(holder, list):
            raise RecipeError(
                f"{self.place}: {where} is {redact(str(holder))}, which has no keys", _FORM, code="set-refused"
            )
        if step.isascii() and step.isdigit() and int(step) < len(holder):
            return int(step)
        short = path[:1] and path[0] in _SHORT
        entries = [{"method": entry} if short and isinstance(entry, str) else entry for entry in holder]
        names = [
            [str(entry[key]) for key in _NAMES if key in entry] if isinstance(entry, dict) else [] for entry in entries
        ]
        found = [n for n, own in enumerate(names) if step in own or step in [one.rpartition("/")[2] for one in own]]
        if len(found) == 1:
            return found[0]
        known = [own[0].rpartition("/")[2] for own in names if own]
        why = "is the name of several entries" if found else "is no entry"
        listed = f"{where} has {len(holder)}, from 0" if holder else f"{where} has none"
        hint = f"; {nearest(step, known)}" if known and not found and not step.isdigit() else ""
        raise RecipeError(f"{self.place}: {step} {why} of {where}", redact(listed + hint), code="set-refused")

    def _remove(self, holder: Any, path: KeyPath) -> None:
        at = path[-1]
        if isinstance(at, str) and at not in holder:
            raise self._missing(at, holder)
        del holder[at]
        self._forget(path)
        if isinstance(at, int):  # the entries after it move up
            depth = len(path) - 1
            for one in sorted(line for line in self.lines if line[:depth] == path[:-1] and len(line) > depth):
                if isinstance(number := one[depth], int) and number > at:
                    self.lines[(*one[:depth], number - 1, *one[depth + 1 :])] = self.lines.pop(one)

    def _forget(self, path: KeyPath) -> None:
        for one in [line for line in self.lines if line[: len(path)] == path]:
            del self.lines[one]

    def _missing(self, step: str, holder: Mapping[str, Any]) -> RecipeError:
        return RecipeError(
            f"{self.place}: the recipe has no key '{step}' to remove", nearest(step, holder), code="set-refused"
        )

    def _refuse_bare_parameter(self) -> None:
        """A parameter without the key that it belongs under: ``lambda`` for ``parameters.lambda``."""
        name = self.steps[0]
        if len(self.steps) > 1 or name in Recipe.model_fields:
            return
        for owner, family in (("calibrate", CALIBRATIONS), ("parameters", METHODS)):
            if any(name == parameter.name for one in family.values() for parameter in one.all_parameters):
                raise RecipeError(
                    f"{self.place}: a recipe has no key '{name}'", f"did you mean '{owner}.{name}'?", code="unknown-key"
                )


def _steps(text: str, end: str) -> tuple[list[str], int]:
    """The steps of a path with dots that stands before ``end``, and where it stops. Raises RecipeError."""
    steps: list[str] = []
    position, last = 0, "."
    while last == "." and (step := _STEP.match(text, position)) is not None:
        steps.append(step[1] or step[2])
        position, last = step.end(), step[3]
    if not steps or last != end or (not end and position < len(text)):
        raise RecipeError(
            f"{_place(text)}: this is not {'KEY=VALUE' if end else 'the path of a key'}", _FORM, code="set-refused"
        )
    return steps, position


def _place(key: str) -> str:
    return f"--set {redact(key)}"
