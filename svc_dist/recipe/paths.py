"""Where a recipe lies, and the paths in it: variables, the date, and paths beside a recipe on a storage."""

from __future__ import annotations

import functools
import os
import re
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

from svc_dist.errors import RecipeError
from svc_dist.recipe.origin import KeyPath, Origin
from svc_dist.storage.access import Access
from svc_dist.storage.open import open_storage
from svc_dist.storage.secrets import is_secret, redact, refuse_credentials

#: Keys whose values are models, wherever they stand in a document.
MODEL_KEYS = ("base_model", "model", "tokenizer_source", "config_source", "source", "keep")
#: A variable of the environment, or the day on which a run was created, in UTC, as 2026-11-29.
_VARIABLE = re.compile(r"\$\{([^}]*)\}|\{(date)\}")


def read_text(recipe: str | Path, access: Access) -> tuple[str, str, str]:
    """The text of a recipe, its name for messages, and the folder or prefix that paths in it are relative to.

    A recipe is a path, a URL of any storage, or ``-`` for standard input. Raises RecipeError, StorageError.
    """
    location = str(recipe)
    if location == "-":
        return _standard_input(sys.stdin), "standard input", str(Path.cwd())
    reason = ""
    try:
        if "://" in location:
            refuse_credentials(location, "RECIPE")
            folder, _, name = location.rpartition("/")
            data = open_storage(folder, access).get(name)
            if data is None:
                raise RecipeError(f"cannot read the recipe {location}: no such file", code="recipe-unreadable")
            return data.decode("utf-8"), location, folder
        return Path(recipe).read_text(encoding="utf-8"), location, str(Path(recipe).absolute().parent)
    except UnicodeDecodeError:
        reason = "it is not UTF-8 text"
    except OSError as error:
        reason = str(error.strerror)
    raise RecipeError(f"cannot read the recipe {redact(location)}: {reason}", code="recipe-unreadable")


@functools.lru_cache(maxsize=1)
def _standard_input(stream: TextIO) -> str:
    """Read once: a recipe may be asked for again."""
    return stream.read()


def today() -> str:
    return datetime.now(UTC).date().isoformat()


class PathValues:
    """What ``${NAME}`` and ``{date}`` stand for in paths: ``recorded`` when a run was created, else their values now.

    ``used``: those that were asked for.
    """

    def __init__(self, recorded: Mapping[str, str] | None = None) -> None:
        self._recorded = recorded or {}
        self.used: dict[str, str] = {}

    def replaced(self, text: str, where: str) -> str:
        """A path with their values. Raises RecipeError for a variable that is not set, or named like a credential."""
        return _VARIABLE.sub(lambda match: self._of(match[2] or match[1], where, match[2] is not None), text)

    def _of(self, name: str, where: str, is_date: bool) -> str:
        if name not in self.used:
            recorded = self._recorded.get(name)
            self.used[name] = recorded or (today() if is_date else _variable(name, where))
        return self.used[name]


def with_paths(data: Any, origin: Origin, folder: str, access: Access, values: PathValues) -> Any:
    """A document with the values of ``${NAME}`` and ``{date}`` in models, and with URLs for models beside its recipe.

    Beside a recipe on a storage, a path that begins with ``.`` is relative to the recipe's prefix, and so is one under
    which files lie; others stay as they are. Raises RecipeError for a variable that is not set, or whose name is that
    of a credential.
    """

    def one(value: str, path: KeyPath) -> str:
        value = values.replaced(value, origin.at(*path))
        if "://" in folder and value and "://" not in value and not value.startswith(("/", "~")):
            url = f"{folder}/{os.path.normpath(value)}"
            if ".." in url.split("/"):
                raise RecipeError(
                    f"{origin.at(*path)}: {value} lies outside the recipe's prefix",
                    "write its URL",
                    code="value-not-allowed",
                )
            if value.startswith(".") or ("+" not in value and open_storage(url, access).names()):
                return url
        return value

    return _changed(data, one, ())


def _changed(value: Any, change: Callable[[str, KeyPath], str], path: KeyPath) -> Any:
    if isinstance(value, Mapping):
        return {key: _changed(one, change, (*path, key)) for key, one in value.items()}
    if isinstance(value, list):
        return [_changed(one, change, (*path, number)) for number, one in enumerate(value)]
    wanted = isinstance(value, str) and path and path[-1] in MODEL_KEYS
    return change(value, path) if wanted else value


def _variable(name: str, where: str) -> str:
    if is_secret(name):
        raise RecipeError(
            f"{where}: ${{{name}}} is a credential by its name, which would end up in plans, reports and logs",
            "take it out; credentials come from the environment or the usual places of the storage's client",
            code="credential-in-recipe",
        )
    value = os.environ.get(name)
    if not value:
        raise RecipeError(
            f"{where}: the environment variable {name} is not set", f"export {name}=...", code="value-not-allowed"
        )
    return value
