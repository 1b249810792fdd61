"""A recipe whose one slice takes whole models, written with ``models``."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from svc_dist.recipe.origin import KeyPath
from svc_dist.recipe.writing.document import Document


def with_models(document: Document, data: Mapping[str, Any], folder: Path) -> tuple[str, str] | None:
    """The text with ``models`` in place of ``slices`` or ``modules``, and what changed; None where that differs.

    It is the same for one part of the model, the whole of it, with one slice of the same layers of each model. Where it
    is not known that these are all layers, ``layer_range`` stays.
    """
    found = _one_slice(data)
    if found is None:
        return None
    path, given = found
    top = str(path[0])
    key = "models" if "models" in given else "sources"
    sources = given[key]
    if not isinstance(sources, list) or not all(
        isinstance(one, Mapping) and isinstance(one.get("model"), str) for one in sources
    ):
        return None
    ranges = {json.dumps(one.get("layer_range")) for one in sources}
    if len(ranges) != 1 or len({one["model"] for one in sources}) != len(sources):
        return None
    base = given.get("base_model") or data.get("base_model")
    if base is not None and base not in [one["model"] for one in sources]:
        return None
    (layers,) = [json.loads(one) for one in ranges]
    whole = layers is None
    if not whole:
        if not (isinstance(layers, list) and len(layers) == 2 and layers[0] == 0):
            return None
        whole = any(layers_of(folder / os.path.expanduser(one["model"])) == layers[1] for one in sources)  # noqa: PTH111
    lines = _model_lines(document, (*path, key), sources, drop=whole)
    added, taken = _added(given, data)
    if not taken:
        return None
    why = "it is one part, made of whole models"
    if layers and whole:
        why = f"the one slice takes all {layers[1]} layers of each model"
    elif layers:
        why = f"there is one slice; if the models have {layers[1]} layers, remove `layer_range`"
    document.swap(
        (top,),
        ["models:", *(f"  {line}" if line else "" for line in lines), *added],
        f"fix: `models` in place of `{top}`: {why}",
    )
    return document.changed(), f"`models` in place of `{top}`: {why}"


def _one_slice(data: Mapping[str, Any]) -> tuple[KeyPath, Mapping[str, Any]] | None:
    """The one slice of a recipe, and where it stands; or the one module with models."""
    path: KeyPath = ()
    holder: Any = data
    if "modules" in data and isinstance(data["modules"], Mapping) and len(data["modules"]) == 1:
        ((name, holder),) = data["modules"].items()
        path = ("modules", name)
        if name not in ("default", "text_decoder", "decoder") or not isinstance(holder, Mapping):
            return None
        if set(holder) == {"models"}:
            return path, holder
        if set(holder) != {"slices"}:
            return None
    slices = holder.get("slices")
    if "models" in data or not isinstance(slices, list) or len(slices) != 1 or not isinstance(slices[0], Mapping):
        return None
    if not {"sources"} <= set(slices[0]) <= {"sources", "base_model", "parameters"}:
        return None
    return (*path, "slices", 0), slices[0]


def _model_lines(document: Document, path: KeyPath, sources: list[Any], drop: bool) -> list[str]:
    """The lines of the models: as their author wrote them where that is possible."""
    kept = [{key: value for key, value in one.items() if key != "layer_range" or not drop} for one in sources]
    lines = document.lines_of(path)
    if lines is not None and drop:
        lines = [line for line in lines if not line.lstrip(" -").startswith("layer_range:")]
    if lines is not None and yaml.safe_load("\n".join(lines)) == kept:
        return lines
    return yaml.safe_dump(kept, sort_keys=False, allow_unicode=True).splitlines()


def _added(given: Mapping[str, Any], data: Mapping[str, Any]) -> tuple[list[str], bool]:
    """The keys of a slice that a recipe has at the top level, and whether there is room for them there."""
    moved = {
        key: given[key]
        for key in ("base_model", "parameters")
        if given.get(key) is not None and given[key] != data.get(key)
    }
    if any(data.get(key) for key in moved):
        return [], False
    return yaml.safe_dump(moved, sort_keys=False, allow_unicode=True).splitlines() if moved else [], True


def layers_of(folder: Path) -> int | None:
    """The number of layers of a model in a local folder, by its config; None where nothing tells."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    for section in (config.get("text_config"), config):
        if isinstance(section, Mapping) and isinstance(section.get("num_hidden_layers"), int):
            return int(section["num_hidden_layers"])
    return None
