"""Where a recipe lies, and the paths in it: variables of the environment, and paths beside a recipe on a storage."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from svc_dist.errors import RecipeError
from svc_dist.recipe.origin import KeyPath, Origin
from svc_dist.storage.access import Access
from svc_dist.storage.open import open_storage
from svc_dist.storage.secrets import is_secret, redact, refuse_credentials

#: Keys whose values are models, wherever they stand in a document.
MODEL_KEYS = ("base_model", "model", "tokenizer_source", "config_source", "source", "keep")
_VARIABLE = re.compile(r"\$\{([^}]*)\}")


def read_text(recipe: str | Path, access: Access) -> tuple[str, str, str]:
    """The text of a recipe, its name for messages, and the folder or prefix that paths in it are relative to.

    A recipe is a path, a URL of any storage, or ``-`` for standard input. Raises RecipeError, StorageError.
    """
    location = str(recipe)
    if location == "-":
        return sys.stdin.read(), "standard input", str(Path.cwd())
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


def with_paths(data: Any, origin: Origin, folder: str, access: Access) -> Any:
    """A document with the values of ``${NAME}`` in models, and with URLs for models beside a recipe on a storage.

    There, a path that begins with ``.`` is relative to the recipe's prefix, and so is one under which files lie; others
    stay as they are. Raises RecipeError for a variable that is not set, or whose name is that of a credential.
    """

    def one(value: str, path: KeyPath) -> str:
        value = _VARIABLE.sub(lambda match: _variable(match[1], origin.at(*path)), value)
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
