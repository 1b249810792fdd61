"""The best recipe of a search: the user's own file with the values of the best trial, comments and order kept."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from svc_dist.recipe.origin import KeyPath
from svc_dist.recipe.paths import MODEL_KEYS
from svc_dist.recipe.rules.calibrations import overridden
from svc_dist.recipe.rules.keys import as_method
from svc_dist.recipe.writing.document import Document
from svc_dist.scoring.search.searched import Searched
from svc_dist.scoring.search.space import Space
from svc_dist.scoring.search.trials import Trial


def best_recipe(searched: Searched, space: Space, trial: Trial, about: str, folder: Path) -> str:
    """The text of a recipe in ``folder`` that makes the model of a trial. ``about``: a comment at its beginning."""
    values = dict(_values(searched, space.entry(trial.values, trial.name)))
    head = f"# {about}\n"
    if searched.changes:
        head += f"# with --set {' --set '.join(f'{key}={_flow(value)}' for key, value in searched.changes.items())}\n"
        return head + _written(_merged(searched.data, values), searched.folder, folder)
    document = Document(searched.text)
    for path, text in _moved(document, searched.data, searched.folder, folder):
        document.put(path, text)
    for path, value in _grouped(searched.data, values).items():
        document.put(path, _flow(value))
    return head + document.changed()


def _grouped(data: Any, values: Mapping[KeyPath, Any]) -> dict[KeyPath, Any]:
    """Values by path, those of a mapping that is not there yet together."""
    result: dict[KeyPath, Any] = {}
    for path, value in values.items():
        if len(path) == 2 and not (isinstance(data.get(path[0]), Mapping) and data[path[0]]):
            result.setdefault(path[:1], {})[path[1]] = value
        else:
            result[path] = value
    return result


def _values(searched: Searched, entry: Mapping[str, Any]) -> Iterator[tuple[KeyPath, Any]]:
    """The keys of a recipe that have the effect of an entry of ``outputs``, and their values."""
    for owner, value in entry.items():
        if owner == "weights":
            for number, weight in enumerate(value):
                yield ("models", number, "parameters", "weight"), weight
        elif owner == "calibrate" and (isinstance(value, list) or isinstance(searched.data.get(owner), list)):
            yield (owner,), overridden(as_method(searched.data.get(owner)), value)
        elif owner == "calibrate" and "method" not in value and isinstance(searched.data.get(owner), str):
            yield (owner,), {"method": searched.data[owner], **value}
        elif owner == "calibrate" and [*value] == ["method"]:
            yield (owner,), value["method"]
        elif owner != "path":
            for name, one in value.items():
                yield (owner, name), one


def _moved(document: Document, data: Any, old: str, new: Path) -> Iterator[tuple[KeyPath, str]]:
    """The relative paths of models that are files beside the recipe, as the new folder sees them."""

    def walk(value: Any, path: KeyPath) -> Iterator[tuple[KeyPath, str]]:
        if isinstance(value, Mapping):
            for key, one in value.items():
                yield from walk(one, (*path, key))
        elif isinstance(value, list):
            for number, one in enumerate(value):
                yield from walk(one, (*path, number))
        elif isinstance(value, str) and path and path[-1] in (*MODEL_KEYS, "folder") and document.has(path):
            moved = _from(value, old, new)
            if moved != value:
                yield path, _flow(moved)

    yield from walk(data, ())


def _from(location: str, old: str, new: Path) -> str:
    """A location relative to the folder ``old``, relative to the folder ``new``; both halves of ``model+adapter``."""

    def one(part: str) -> str:
        if not part or "://" in part or part.startswith(("/", "~")) or "://" in old:
            return part
        there = Path(old) / part
        return Path(os.path.relpath(there, new)).as_posix() if there.exists() else part

    return "+".join(map(one, location.split("+")))


def _merged(data: Any, values: Mapping[KeyPath, Any]) -> dict[str, Any]:
    """A recipe's data with values at paths."""
    import copy

    result: dict[str, Any] = copy.deepcopy(dict(data))
    for path, value in values.items():
        holder: Any = result
        for step in path[:-1]:
            if isinstance(holder, dict) and not isinstance(holder.get(step), dict | list):
                holder[step] = {}
            holder = holder[step]
        holder[path[-1]] = value
    return result


def _written(data: dict[str, Any], old: str, new: Path) -> str:
    """Data as text, with relative paths as the new folder sees them."""
    text = yaml.safe_dump(data, sort_keys=False, allow_unicode=True)
    document = Document(text)
    for path, moved in _moved(document, data, old, new):
        document.put(path, moved)
    return document.changed()


def _flow(value: Any) -> str:
    """A value as YAML in one line."""
    text: str = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, allow_unicode=True, width=10_000)
    return text.removesuffix("\n").removesuffix("\n...")
