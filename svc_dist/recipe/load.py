"""A recipe read: a person's YAML, checked before anything else is read.

Everything is strict: an unknown key, a parameter that its method does not take, or a value outside its range is an
error with the line it stands on and the nearest valid name.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from svc_dist.errors import RecipeError
from svc_dist.recipe.mergekit import refuse
from svc_dist.recipe.presets import PRESETS, expand
from svc_dist.recipe.resolve import choices
from svc_dist.recipe.schema import ModelEntry, OutputEntry, Recipe, Rename, Rule, StorageOptions, Strict, nearest, where
from svc_dist.recipe.yaml_lines import read_yaml
from svc_dist.storage.access import ClientOptions, check_endpoint, check_options
from svc_dist.storage.secrets import is_secret, redact, refuse_credentials


def load_recipe(path: str | Path) -> Recipe:
    """Read and validate a recipe file. Raises RecipeError."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise RecipeError(f"cannot read the recipe {path}: {reason}") from None
    return parse_recipe(text, str(path), path.absolute().parent)


def parse_recipe(text: str, origin: str = "recipe", folder: str | Path = ".") -> Recipe:
    """Validate a recipe given as YAML text; relative paths count from ``folder``. Raises RecipeError."""
    data, lines = read_yaml(text, origin)
    return recipe_from(data, origin, folder, lines)


def recipe_from(
    data: Any, origin: str = "recipe", folder: str | Path = ".", lines: Mapping[Any, int] | None = None
) -> Recipe:
    """Validate a recipe given as plain data (what the YAML would parse to). Raises RecipeError."""
    lines = dict(lines or {})
    if not isinstance(data, Mapping):
        raise RecipeError(f"{origin}: a recipe is a mapping with base_model, models and merge_method")
    refuse(data, origin, lines)
    try:
        recipe = Recipe.model_validate(_with_preset(data, origin, lines))
    except ValidationError as error:
        raise RecipeError("\n".join(redact(_explain(problem, origin, lines)) for problem in error.errors())) from None
    _check_storage(recipe.storage, origin, lines)
    recipe._origin, recipe._folder, recipe._lines = origin, str(Path(folder).absolute()), lines
    for _, result in recipe.results():
        choices(result)  # every parameter is checked now, not when a unit runs
    return recipe


def _check_storage(storage: Mapping[str, StorageOptions], origin: str, lines: Mapping[Any, int]) -> None:
    for prefix, options in storage.items():
        place = where(origin, lines.get(("storage", prefix)), ("storage", redact(prefix)))
        if "://" not in prefix:
            raise RecipeError(f"{place}: options of a storage go by URL prefix, like s3://bucket/")
        refuse_credentials(prefix, place)
        check_endpoint(options.endpoint_url, place)
        check_options(prefix.split("://")[0], ClientOptions(**dict(options)), place)
        secret = _secret_in(options.client)
        if secret is not None:
            raise RecipeError(
                f"{place}: '{secret}' is a credential, which would end up in plans, reports and logs",
                "take it out; credentials come from the environment or the usual places of the storage's client "
                "(AWS_PROFILE, GOOGLE_APPLICATION_CREDENTIALS, ...)",
            )


def _secret_in(options: Any) -> str | None:
    """The first key anywhere in nested options that names a credential, or whose URL carries one."""
    if isinstance(options, Mapping):
        for key, value in options.items():
            found = str(key) if is_secret(str(key)) or _carries_credentials(value) else _secret_in(value)
            if found is not None:
                return found
    if isinstance(options, list):
        return next(filter(None, map(_secret_in, options)), None)
    return None


def _carries_credentials(value: Any) -> bool:
    try:
        refuse_credentials(value if isinstance(value, str) else "")
    except RecipeError:
        return True
    return False


def _with_preset(data: Mapping[str, Any], origin: str, lines: Mapping[Any, int]) -> dict[str, Any]:
    name = data.get("preset")
    place = where(origin, lines.get(("preset",)), ("preset",))
    if name is not None and name not in PRESETS:
        raise RecipeError(f"{place}: there is no preset '{name}'", nearest(str(name), PRESETS))
    try:
        return expand(data)
    except ValueError as error:
        raise RecipeError(f"{place}: {error}") from None


_WANTED = {
    "string_type": "text (put quotes around numbers and dates)",
    "list_type": "a list",
    "dict_type": "a mapping of keys to values",
    "model_type": "a mapping of keys to values",
    "model_attributes_type": "a mapping of keys to values",
}


def _explain(problem: Any, origin: str, lines: Mapping[Any, int]) -> str:
    path = tuple(problem["loc"])
    line = next((lines[path[:end]] for end in range(len(path), 0, -1) if path[:end] in lines), None)
    place = where(origin, line, path)
    if problem["type"] == "extra_forbidden":
        nested: dict[str, type[Strict]] = {
            "models": ModelEntry, "rules": Rule, "storage": StorageOptions, "rename": Rename, "outputs": OutputEntry,
        }  # fmt: skip
        owner = Recipe if len(path) == 1 else nested.get(str(path[-3])) if len(path) > 2 else None
        known = [field.alias or name for name, field in owner.model_fields.items()] if owner else []
        return f"{place}: unknown key '{path[-1]}'; " + nearest(str(path[-1]), known)
    if problem["type"] in _WANTED:
        return f"{place}: {problem['input']!r} must be {_WANTED[problem['type']]}"
    if problem["type"] == "missing":
        return f"{place}: the key '{path[-1]}' is missing"
    return f"{place}: {problem['msg'].removeprefix('Value error, ')}"
