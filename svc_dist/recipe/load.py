"""A recipe read, checked and resolved, before any model is opened.

An unknown key, a parameter that its method does not take, or a value outside its range is an error with its line and
the nearest valid name. What mergekit takes without effect is the exception: ``mergekit.ignored``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from svc_dist.errors import RecipeError, printable
from svc_dist.recipe.documents import ResolvedDocument, earlier, is_result, ordered
from svc_dist.recipe.edits.changes import changed, changed_documents
from svc_dist.recipe.edits.grids import expanded
from svc_dist.recipe.evaluation.axes import AxisEntry
from svc_dist.recipe.evaluation.entry import EvaluateEntry
from svc_dist.recipe.mergekit.ignored import without_ignored
from svc_dist.recipe.mergekit.refused import refuse_other_programs
from svc_dist.recipe.mergekit.slices import without_slices
from svc_dist.recipe.origin import UNNAMED, Origin, nearest
from svc_dist.recipe.paths import PathValues, read_text, with_paths
from svc_dist.recipe.presets import PRESETS, expand
from svc_dist.recipe.resolved import ResolvedRecipe, resolve
from svc_dist.recipe.rules.keys import OnlyWhere, RuleEntry, Strict
from svc_dist.recipe.schema import ModelEntry, OutputEntry, Recipe, RenameEntry, StorageOptions
from svc_dist.recipe.training.checkpoints import with_checkpoints
from svc_dist.recipe.yaml_lines import read_documents, read_yaml
from svc_dist.storage.access import DEFAULT_ACCESS, Access, ClientOptions, check_endpoint, check_options
from svc_dist.storage.secrets import is_secret, redact, refuse_credentials

_REPORT_FILE = "merge_report.json"  # it has the recipe of its merge, resolved

#: A recipe's file, what its YAML parses to (a list for several documents), or a recipe that is resolved already.
RecipeSource = str | Path | Mapping[str, Any] | Sequence[Mapping[str, Any]] | ResolvedRecipe


def load_recipe(
    recipe: RecipeSource,
    *,
    access: Access = DEFAULT_ACCESS,
    max_shard_size: str | int | None = None,
    changes: Mapping[str, Any] | None = None,
) -> ResolvedRecipe:
    """The recipe of one merge; see ``load_documents``. Raises RecipeError, also for several documents."""
    documents = load_documents(recipe, access=access, max_shard_size=max_shard_size, changes=changes)
    if len(documents) > 1:
        raise RecipeError(
            f"{documents[0].recipe.origin.name} has {len(documents)} documents; here one merge is wanted",
            "write its document to a file of its own, with the path of a model in place of another document's name",
            code="documents-several",
        )
    return documents[0].recipe


def load_documents(
    recipe: RecipeSource,
    *,
    access: Access = DEFAULT_ACCESS,
    max_shard_size: str | int | None = None,
    changes: Mapping[str, Any] | None = None,
    recorded: Mapping[str, str] | None = None,
) -> tuple[ResolvedDocument, ...]:
    """The merges of a recipe, checked and resolved: one for each document, each after those that it uses.

    ``recipe``: a file, or the data that its YAML would parse to. ``access``: for storages without options in the
    recipe. ``max_shard_size`` replaces the recipe's. ``changes``: values that replace the recipe's, by key, as
    ``--set`` gives them. ``recorded``: values of ``${NAME}`` and ``{date}`` in paths. Raises RecipeError.
    """
    values = PathValues(recorded)
    if isinstance(recipe, ResolvedRecipe):
        if changes:
            raise RecipeError(
                "a resolved recipe cannot be changed", "change the recipe that it was made from", code="set-refused"
            )
        one = recipe if access == DEFAULT_ACCESS else recipe.with_access(access)
        documents: tuple[ResolvedDocument, ...] = (ResolvedDocument(None, one),)
    elif isinstance(recipe, Mapping):
        documents = _resolved([(recipe, UNNAMED)], ".", access, changes, values)
    elif isinstance(recipe, Sequence) and not isinstance(recipe, str):
        documents = _resolved([(one, UNNAMED) for one in recipe], ".", access, changes, values)
    else:
        documents = parse_documents(*read_text(recipe, access), access, changes, values)
    if max_shard_size is not None:
        documents = tuple(replace(one, recipe=one.recipe.with_shard_size(max_shard_size)) for one in documents)
    return documents


def read_recipe(recipe: str | Path | Mapping[str, Any]) -> tuple[Any, Origin]:
    """The data of one merge's recipe, unchecked, and its origin. Raises RecipeError."""
    if isinstance(recipe, Mapping):
        return recipe, UNNAMED
    text, name, _ = read_text(recipe, DEFAULT_ACCESS)
    data, lines = read_yaml(text, name)
    return data, Origin(name, lines)


def parse_documents(
    text: str,
    name: str = "recipe",
    folder: str | Path = ".",
    access: Access = DEFAULT_ACCESS,
    changes: Mapping[str, Any] | None = None,
    values: PathValues | None = None,
) -> tuple[ResolvedDocument, ...]:
    """The merges of YAML text, or of the report of a merge; relative paths are relative to ``folder``.

    Raises RecipeError.
    """
    if name.rpartition("/")[2] == _REPORT_FILE:
        return _resolved(_reported(text, name), folder, access, changes, values or PathValues())
    parsed = [(data, Origin(name, lines)) for data, lines in read_documents(text, name)]
    documents = _resolved(parsed, folder, access, changes, values or PathValues())
    own = redact(text + "".join(f"\n# --set {key}={value}" for key, value in (changes or {}).items()))
    return tuple(replace(document, recipe=replace(document.recipe, text=own)) for document in documents)


def _reported(text: str, name: str) -> list[tuple[Any, Origin]]:
    """The documents that a finished merge was made of, resolved. Raises RecipeError."""
    try:
        report = json.loads(text)
        return [(document, Origin(name)) for document in [*report.get("documents", ()), report["recipe"]]]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise RecipeError(f"{name} holds no recipe: {error!r}", code="not-a-recipe") from None


def _resolved(
    parsed: Sequence[tuple[Any, Origin]],
    folder: str | Path,
    access: Access,
    changes: Mapping[str, Any] | None,
    values: PathValues,
) -> tuple[ResolvedDocument, ...]:
    """The documents of a file, resolved. Storage options of each hold for all: they read each other's models."""
    if not parsed:
        raise RecipeError("a recipe must have at least one document", code="not-a-recipe")
    changed_ones = changed_documents(parsed, changes or {})
    every = ordered([(with_paths(data, origin, str(folder), access, values), origin) for data, origin in changed_ones])
    recipes = [
        replace(recipe_from(one.data, one.origin, folder, access), path_values=dict(values.used)) for one in every
    ]
    options = {prefix: one for recipe in recipes for prefix, one in recipe.access.options.items()}
    documents = [
        ResolvedDocument(one.name, recipe.with_options(options), one.uses, is_result(one, every))
        for one, recipe in zip(every, recipes, strict=True)
    ]
    for document in documents:
        several = next((one for one in earlier(documents, document) if one.recipe.results[0].path), None)
        if several is not None:
            raise RecipeError(
                f"{several.recipe.origin.at('outputs')}: {several.title} makes several models, but "
                f"{document.title} uses it as one",
                "remove `outputs` there, or write a document for each model",
                code="documents-several",
            )
    return tuple(documents)


def parse_recipe(
    text: str,
    name: str = "recipe",
    folder: str | Path = ".",
    access: Access = DEFAULT_ACCESS,
    changes: Mapping[str, Any] | None = None,
) -> ResolvedRecipe:
    """A recipe from YAML text; relative paths are relative to ``folder``. Raises RecipeError."""
    data, lines = read_yaml(text, name)
    return recipe_from(data, Origin(name, lines), folder, access, changes)


def recipe_from(
    data: Any,
    origin: Origin = UNNAMED,
    folder: str | Path = ".",
    access: Access = DEFAULT_ACCESS,
    changes: Mapping[str, Any] | None = None,
) -> ResolvedRecipe:
    """A recipe from plain data (what the YAML would parse to). Raises RecipeError."""
    data, origin = expanded(*changed(data, changes or {}, origin))
    if not isinstance(data, Mapping):
        raise RecipeError(
            f"{origin.at()}: a recipe must be a mapping with base_model, models and merge_method", code="not-a-recipe"
        )
    data = with_checkpoints(data, origin, folder, access)
    refuse_other_programs(data, origin)
    data, ignored = without_ignored(data, origin)
    data, origin, translated = without_slices(data, origin)
    try:
        recipe = Recipe.model_validate(_with_preset(data, origin))
    except ValidationError as error:
        problems = error.errors()
        if not any(key in data for key in _DEFINING):
            listed = ", ".join(printable(str(key)) for key in list(data)[:_LISTED])
            raise RecipeError(
                f"{redact(origin.at())}: not a recipe: it has none of {', '.join(_DEFINING)}, but {listed}, ...",
                code="not-a-recipe",
            ) from None
        code = {"extra_forbidden": "unknown-key", "missing": "key-missing"}.get(
            problems[0]["type"], "value-not-allowed"
        )
        lines = [redact(_explain(one, origin)) for one in problems[:_LISTED]]
        more = [f"and {len(problems) - _LISTED:,} more"] if len(problems) > _LISTED else []
        raise RecipeError("\n".join([*lines, *more]), code=code) from None
    _check_storage(recipe.storage, origin)
    return resolve(
        recipe, origin, Path.cwd() if "://" in str(folder) else Path(folder).absolute(), access, [*ignored, *translated]
    )


def _check_storage(storage: Mapping[str, StorageOptions], origin: Origin) -> None:
    for prefix, options in storage.items():
        where = redact(origin.at("storage", prefix))
        if "://" not in prefix:
            raise RecipeError(f"{where}: storage options need a URL prefix, like s3://bucket/", code="storage-prefix")
        refuse_credentials(prefix, where)
        check_endpoint(options.endpoint_url, where)
        check_options(prefix.split("://")[0], ClientOptions(**dict(options)), where)
        secret = _secret_in(options.client)
        if secret is not None:
            raise RecipeError(
                f"{where}: '{secret}' is a credential, which would end up in plans, reports and logs",
                "remove it; credentials come from the environment or the usual places of the storage's client "
                "(AWS_PROFILE, GOOGLE_APPLICATION_CREDENTIALS, ...)",
                code="credential-in-recipe",
            )


def _secret_in(options: Any) -> str | None:
    """The first key in nested options that names a credential, or whose URL contains one."""
    if isinstance(options, list):
        return next(filter(None, map(_secret_in, options)), None)
    for key, value in options.items() if isinstance(options, Mapping) else ():
        try:
            refuse_credentials(value if isinstance(value, str) else "")
            secret = str(key) if is_secret(str(key)) else _secret_in(value)
        except RecipeError:
            secret = str(key)
        if secret is not None:
            return secret
    return None


def _with_preset(data: Mapping[str, Any], origin: Origin) -> dict[str, Any]:
    name = data.get("preset")
    if name is not None and name not in PRESETS:
        raise RecipeError(
            f"{origin.at('preset')}: there is no preset '{name}'", nearest(str(name), PRESETS), code="unknown-preset"
        )
    try:
        return expand(data)
    except ValueError as error:
        raise RecipeError(f"{origin.at('preset')}: {error}", code="preset-for-another-method") from None


#: What has none of these keys is no recipe.
_DEFINING = ("base_model", "models", "checkpoints", "merge_method", "preset")
_LISTED = 5  # problems of one recipe in a message
_EXPECTED = {
    "string_type": "text (put quotes around numbers and dates)",
    "list_type": "a list",
    **dict.fromkeys(("dict_type", "model_type", "model_attributes_type"), "a mapping of keys to values"),
}


#: Mappings in a recipe, and the entries of lists and mappings, by the key of these.
_ENTRIES: dict[str, type[Strict]] = {
    "models": ModelEntry, "rules": RuleEntry, "storage": StorageOptions, "rename": RenameEntry, "outputs": OutputEntry,
    "evaluate": EvaluateEntry, "search": AxisEntry, "only_where": OnlyWhere,
}  # fmt: skip


def _explain(problem: Any, origin: Origin) -> str:
    path = tuple(problem["loc"])
    where = origin.at(*path)
    if problem["type"] == "extra_forbidden":
        holders = [_ENTRIES[str(key)] for key in path[-3:-1] if key in _ENTRIES]
        owner = Recipe if len(path) == 1 else holders[-1] if holders else None
        known = [field.alias or name for name, field in owner.model_fields.items()] if owner else []
        return f"{where}: unknown key '{path[-1]}'; " + nearest(str(path[-1]), known)
    if problem["type"] in _EXPECTED:
        return f"{where}: {problem['input']!r} must be {_EXPECTED[problem['type']]}"
    if problem["type"] == "missing":
        return f"{where}: the key '{path[-1]}' is missing"
    return f"{where}: {problem['msg'].removeprefix('Value error, ')}"
