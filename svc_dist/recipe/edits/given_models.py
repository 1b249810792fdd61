"""A recipe's data for models that a caller has in memory: their locations in place of those that it names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from svc_dist.errors import RecipeError
from svc_dist.recipe.origin import Origin, nearest
from svc_dist.storage.access import MEMORY

_CODE = "in-memory-refused"


def location_of(name: str | None) -> str:
    """The location of the expert with a name; None: of the base."""
    return f"{MEMORY}base" if name is None else f"{MEMORY}experts/{quote(name, safe=' ')}"


def of_given_models(data: Any, origin: Origin, names: Sequence[str], has_base: bool) -> Any:
    """A recipe's data with the locations of these experts, and of a base, in place of its own.

    Without ``models`` the experts stand in their order. With them each entry names an expert by its ``name``, its
    ``model``, or the last part of that; the base may be listed too. Raises RecipeError.
    """
    if not isinstance(data, Mapping):
        return data
    for key in ("slices", "modules"):
        if key in data:
            raise RecipeError(
                f"{origin.at(key)}: merge_state_dicts takes whole models", "list them under models", code=_CODE
            )
    changed = {key: value for key, value in data.items() if key != "base_model"}
    written = data.get("base_model")
    if has_base:
        changed["base_model"] = location_of(None)
    elif isinstance(written, str):
        changed["base_model"] = location_of(_expert({"model": written}, names, origin.at("base_model")))
    entries = data.get("models")
    if entries is None:
        changed["models"] = [{"model": location_of(name), "name": name} for name in names]
    elif isinstance(entries, list) and all(isinstance(entry, Mapping) for entry in entries):
        listed = [
            None
            if has_base and entry.get("model") in ("base", written)
            else _expert(entry, names, origin.at("models", number))
            for number, entry in enumerate(entries)
        ]
        left = [name for name in names if name not in listed and location_of(name) != changed.get("base_model")]
        if left:
            raise RecipeError(
                f"{origin.at('models')}: the recipe does not list the expert '{left[0]}'",
                "list it, or leave out `models`, so that all experts take part",
                code=_CODE,
            )
        changed["models"] = [
            {**entry, "model": location_of(name)} | ({} if name is None else {"name": name})
            for entry, name in zip(entries, listed, strict=True)
        ]
    return changed


def _expert(entry: Mapping[str, Any], names: Sequence[str], where: str) -> str:
    """The expert that an entry of ``models`` names. Raises RecipeError."""
    model = str(entry.get("model"))
    for name in (entry.get("name"), model, model.rstrip("/").rpartition("/")[2]):
        if name in names:
            return str(name)
    raise RecipeError(f"{where}: no expert that was given is called '{model}'", nearest(model, names), code=_CODE)
