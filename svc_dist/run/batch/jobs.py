"""The merges of a batch: the recipes of a folder, or the entries of a file."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from svc_dist.errors import RecipeError, printable
from svc_dist.recipe.locations import absolute
from svc_dist.recipe.origin import Origin, nearest
from svc_dist.recipe.paths import read_text
from svc_dist.recipe.yaml_lines import read_yaml
from svc_dist.storage.access import Access
from svc_dist.storage.base import is_inside, trimmed
from svc_dist.storage.local import is_folder, is_there
from svc_dist.storage.open import open_storage
from svc_dist.storage.secrets import redact, refuse_credentials
from svc_dist.tensor_names import natural_key

_RECIPES = (".yaml", ".yml")
_FILES = (*_RECIPES, ".json")
_NAME = "{recipe}"
_KEYS = ("recipe", "name", "output", "set")
_CODE = "batch-refused"


@dataclass(frozen=True)
class Job:
    """One merge of a batch. ``output`` may have ``{date}``; ``changes``: values that replace those of its recipe."""

    name: str
    recipe: str
    output: str
    changes: Mapping[str, Any] = field(default_factory=dict)


def read_jobs(source: str, output: str | None, access: Access) -> list[Job]:
    """The merges of a batch, in their order. Reads no recipe: one that is wrong fails when its turn comes.

    ``source``: a folder with recipes, which are merged in natural order of their names, or a YAML file with a list of
    entries; both on any storage. ``output``: where merges go whose entry names no other place; ``{recipe}`` in it
    stands for the name of each, which is its last part otherwise. Raises RecipeError, StorageError.
    """
    refuse_credentials(source, "FOLDER|FILE")
    jobs = _listed(source, output, access) if source.endswith(_FILES) else _of_folder(source, output, access)
    seen: dict[str, str] = {}
    names: set[str] = set()
    for job in jobs:
        if job.name in names:
            raise RecipeError(
                f"two merges are called {printable(job.name)}: staging folders, metrics and the report go by the name",
                "set `name` of one of them",
                code=_CODE,
            )
        names.add(job.name)
        place = job.output.rstrip("/")
        if place in seen:
            raise RecipeError(
                f"{printable(seen[place])} and {printable(job.name)} have the same output: {redact(place)}",
                f"give each its own: write {_NAME} in OUTPUT, or another `name` or `output`",
                code=_CODE,
            )
        seen[place] = job.name
    return jobs


def _of_folder(folder: str, output: str | None, access: Access) -> list[Job]:
    local = "://" not in folder
    if local and not is_folder(folder):
        what = "is a file without the ending .yaml, .yml or .json" if is_there(folder) else "does not exist"
        raise RecipeError(
            f"{printable(folder)} {what}", "name a folder with recipes, or a YAML file with a list of them", code=_CODE
        )
    if output is None:
        raise RecipeError(
            "OUTPUT is missing: where to write the merged models",
            f"write svc-dist batch {printable(folder)} OUTPUT, such as 'merged/{_NAME}'",
            code=_CODE,
        )
    names = [name for name in open_storage(folder, access).names() if name.endswith(_RECIPES) and name[0] != "."]
    if not names:
        raise RecipeError(f"{redact(folder)} has no recipe: no .yaml or .yml file", code=_CODE)
    where = str(Path(folder)) if local else trimmed(folder)
    return [
        Job(name.rpartition(".")[0], f"{where}/{name}", placed_for(name.rpartition(".")[0], output))
        for name in sorted(names, key=natural_key)
    ]


def _listed(file: str, output: str | None, access: Access) -> list[Job]:
    text, name, folder = read_text(file, access)
    data, lines = read_yaml(text, name)
    origin = Origin(name, lines)
    if isinstance(data, Mapping):
        raise RecipeError(
            f"{origin.name} is a mapping, as a recipe is; a batch is a list of recipes",
            f"merge one recipe with svc-dist merge {redact(file)} OUTPUT, or write a list: - recipe: math.yaml",
            code=_CODE,
        )
    if not isinstance(data, list) or not data:
        raise RecipeError(f"{origin.name} has no list of recipes", "write a list: - recipe: math.yaml", code=_CODE)
    return [_entry(entry, number, origin, folder, output) for number, entry in enumerate(data)]


def _entry(entry: Any, number: int, origin: Origin, folder: str, output: str | None) -> Job:
    """One entry: a recipe's path, or a mapping. Raises RecipeError."""
    entry = {"recipe": entry} if isinstance(entry, str) else entry
    where = origin.at(number)
    if not isinstance(entry, Mapping):
        raise RecipeError(f"{where}: an entry is a recipe's path, or a mapping with `recipe`", code=_CODE)
    for key in entry:
        if key not in _KEYS:
            raise RecipeError(f"{origin.at(number, key)}: unknown key '{key}'", nearest(key, _KEYS), code=_CODE)
    texts = {key: entry.get(key) for key in ("recipe", "name", "output")}
    for key, value in texts.items():
        if value is not None and not (isinstance(value, str) and value.strip()):
            raise RecipeError(f"{origin.at(number, key)}: {value!r} is no text", code=_CODE)
    recipe, own = texts["recipe"], texts["output"]
    if recipe is None:
        raise RecipeError(f"{where}: `recipe` is missing", "write - recipe: math.yaml", code=_CODE)
    name = texts["name"] or recipe.rstrip("/").rpartition("/")[2].rpartition(".")[0] or recipe
    if not is_inside(name) or "/" in name:
        raise RecipeError(f"{where}: the name '{printable(name)}' is no name of a folder", "set `name`", code=_CODE)
    changes = entry.get("set") or {}
    if not isinstance(changes, Mapping):
        raise RecipeError(
            f"{origin.at(number, 'set')}: must be a mapping", "write set: {parameters.lambda: 0.4}", code=_CODE
        )
    if own is None and output is None:
        raise RecipeError(
            f"{where}: no output is given for {printable(name)}",
            "set `output`, or give OUTPUT for all as the second argument",
            code=_CODE,
        )
    place = placed_for(name, output or "") if own is None else _beside(folder, own.replace(_NAME, name))
    refuse_credentials(place, origin.at(number, "output"))
    return Job(name, _beside(folder, recipe), place, copy.deepcopy(dict(changes)))


def placed_for(name: str, location: str) -> str:
    """The place of the merge of this name in a location that all of a batch share."""
    return location.replace(_NAME, name) if _NAME in location else f"{location.rstrip('/')}/{name}"


def _beside(folder: str, path: str) -> str:
    """A path relative to the folder or prefix of the list."""
    if "://" in folder and "://" not in path and not path.startswith("/"):
        return f"{trimmed(folder)}/{path.removeprefix('./')}"
    return absolute(path, Path(folder))
