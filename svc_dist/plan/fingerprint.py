"""What a plan was made from, as one digest, and what differs between two plans."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from svc_dist.plan.inputs import Model
from svc_dist.plan.model import Plan
from svc_dist.plan.settings import Settings

#: Raised whenever the same inputs would be planned or written differently; a part of the fingerprint.
PLAN_VERSION = 1


def differences(old: Plan, new: Plan) -> list[str]:
    """What differs between two plans' inputs, for a person who resumes with something changed."""
    found = _differences("recipe", old.recipe, new.recipe)
    found += _differences("settings", dataclasses.asdict(old.settings), dataclasses.asdict(new.settings))
    found += _differences("method version", old.methods, new.methods)
    before = {model.location: {file.name: file for file in model.files} for model in old.inputs}
    for model in new.inputs:
        known = before.get(model.location)
        if known is None:
            continue  # the recipe's difference says so already
        for file in model.files:
            if file.name not in known:
                found.append(f"{model.location}/{file.name} is new")
            elif known[file.name] != file:
                was = known[file.name]
                found.append(
                    f"{model.location}/{file.name}: was {was.size:,} bytes, {was.version}; "
                    f"is {file.size:,} bytes, {file.version}"
                )
        found += [f"{model.location}/{name} is gone" for name in known if name not in {f.name for f in model.files}]
    return found or ["the version of the plan format (another release of svc_dist made it)"]


def _differences(where: str, old: Any, new: Any) -> list[str]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        keys = [*old, *(key for key in new if key not in old)]
        return [line for key in keys for line in _differences(f"{where}: {key}", old.get(key), new.get(key))]
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        return [
            line for i, pair in enumerate(zip(old, new, strict=True)) for line in _differences(f"{where}[{i}]", *pair)
        ]
    return [] if old == new else [f"{where}: was {old}, is {new}"]


def _fingerprint(
    recipe: Mapping[str, Any], settings: Settings, models: Sequence[Model], versions: Mapping[str, int]
) -> str:
    identity = {
        "version": PLAN_VERSION,
        "recipe": recipe,
        "settings": dataclasses.asdict(settings),
        "models": [dataclasses.asdict(model) for model in models],
        "methods": versions,
    }
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
