"""A plan as one digest of its inputs and of all that it writes, and the differences between two plans."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import msgspec
from msgspec import structs

from svc_dist.methods.calibration.chain import names
from svc_dist.methods.registry import CALIBRATIONS, METHODS
from svc_dist.plan.files.sidecars import Sidecar
from svc_dist.plan.inputs import PlannedModel, every_location
from svc_dist.plan.model import Plan
from svc_dist.plan.settings import Settings
from svc_dist.plan.tensors.dispositions import Disposition
from svc_dist.storage.base import FileIdentity

#: Raised whenever the same inputs would be planned or written differently.
PLAN_VERSION = 6


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
    return lines or ["what is made of the same inputs (another release of svc_dist planned it)"]


def _files(planned: PlannedFrom) -> dict[str, dict[str, FileIdentity]]:
    """The identities of the files that a merge reads, by location and name."""
    files: dict[str, dict[str, FileIdentity]] = {}
    for model in every_location(planned.models):
        files.setdefault(model.location, {}).update((file.name, file) for file in model.files)
    for sidecar in planned.sidecars:
        if sidecar.identity is not None:
            location = sidecar.elsewhere or planned.models[sidecar.source].location
            files.setdefault(location, {})[sidecar.name] = sidecar.identity
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


def fingerprint(plan: Plan) -> str:
    """The digest of what a plan is made from, and of every name, range and disposition that it writes.

    Left out is what changes no byte: costs, warnings, reasons, and why ``auto`` chose what the recipe says now.
    """
    written = structs.replace(
        plan.recorded,
        fingerprint="",
        results=tuple(
            dataclasses.replace(
                result, dispositions=tuple(dataclasses.replace(one, reason="") for one in result.dispositions)
            )
            for result in plan.results
        ),
        units=tuple(structs.replace(unit, flops=0.0, memory=0) for unit in plan.units),
        not_written=tuple((name, "") for name, _ in plan.not_written),
        left_out=(),
        warnings=(),
        auto=msgspec.UNSET,
    )
    digest = hashlib.sha256(f"{PLAN_VERSION} ".encode())
    digest.update(msgspec.json.encode(written, order="deterministic"))
    return digest.hexdigest()


def versions(dispositions: Sequence[Sequence[Disposition]]) -> dict[str, int]:
    """The versions of the methods and calibrations that are used. ``dispositions``: by number, in all results."""
    every = [one for numbered in dispositions for one in numbered]
    used = sorted({d.method for d in every if d.method} | {name for d in every for name in names(d.calibration)})
    return {name: (METHODS[name] if name in METHODS else CALIBRATIONS[name]).version for name in used}
