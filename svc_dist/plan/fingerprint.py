"""The inputs of a plan as one digest, and the differences between the inputs of two plans."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from svc_dist.plan.files.sidecars import Sidecar
from svc_dist.plan.inputs import PlannedModel, every_location
from svc_dist.plan.settings import Settings
from svc_dist.storage.base import FileIdentity

#: Raised whenever the same inputs would be planned or written differently.
PLAN_VERSION = 4


class PlannedFrom(Protocol):
    """The inputs of a merge, as its plan and its report record them."""

    @property
    def recipe(self) -> dict[str, Any]: ...
    @property
    def settings(self) -> Settings: ...
    @property
    def methods(self) -> dict[str, int]: ...
    @property
    def models(self) -> tuple[PlannedModel, ...]: ...
    @property
    def sidecars(self) -> Sequence[Sidecar]: ...
    @property
    def chat_template(self) -> str | None: ...


def differences(old: PlannedFrom, new: PlannedFrom) -> list[str]:
    """The differences between two merges' inputs, one line each, for a person who resumes a changed merge."""
    lines = _differences("recipe", old.recipe, new.recipe)
    lines += _differences("settings", dataclasses.asdict(old.settings), dataclasses.asdict(new.settings))
    lines += _differences("method version", old.methods, new.methods)
    before, after = _files(old), _files(new)
    for location in (location for location in after if location in before):  # the recipe's difference names others
        was, now = before[location], after[location]
        for name in now | was:
            one, other = was.get(name), now.get(name)
            if one is None or other is None:
                lines.append(f"{location}/{name} is {'new' if one is None else 'gone'}")
            elif one != other:
                was_and_is = (f"{file.size:,} bytes, {file.version}" for file in (one, other))
                lines.append(f"{location}/{name}: was {'; is '.join(was_and_is)}")
    lines += _differences("chat template", old.chat_template, new.chat_template)
    return lines or ["the version of the plan format (another release of svc_dist made it)"]


def _files(planned: PlannedFrom) -> dict[str, dict[str, FileIdentity]]:
    """The identities of the files that a merge reads, by location and name."""
    files: dict[str, dict[str, FileIdentity]] = {}
    for model in every_location(planned.models):
        files.setdefault(model.location, {}).update((file.name, file) for file in model.files)
    for sidecar in planned.sidecars:
        if sidecar.identity is not None:
            files[planned.models[sidecar.source].location][sidecar.name] = sidecar.identity
    return files


def _differences(where: str, old: Any, new: Any) -> list[str]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        keys = dict.fromkeys([*old, *new])
        return [line for key in keys for line in _differences(f"{where}: {key}", old.get(key), new.get(key))]
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        return [
            line for i, pair in enumerate(zip(old, new, strict=True)) for line in _differences(f"{where}[{i}]", *pair)
        ]
    return [] if old == new else [f"{where}: was {old}, is {new}"]


def fingerprint(planned: PlannedFrom) -> str:
    identity = {
        "version": PLAN_VERSION,
        "recipe": planned.recipe,
        "settings": dataclasses.asdict(planned.settings),
        "models": [dataclasses.asdict(model) for model in planned.models],
        "methods": planned.methods,
        "sidecars": [dataclasses.asdict(sidecar) for sidecar in planned.sidecars],
        "chat_template": planned.chat_template,
    }
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
