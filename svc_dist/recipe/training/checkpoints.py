"""``checkpoints`` in a recipe: the checkpoints of a training run, found in its folder, as the models of a mean."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from svc_dist.errors import RecipeError
from svc_dist.recipe.locations import absolute
from svc_dist.recipe.origin import KeyPath, Origin, nearest
from svc_dist.recipe.schema import Recipe, StorageOptions
from svc_dist.recipe.training.entry import CheckpointsEntry
from svc_dist.recipe.training.schedules import schedule_weights
from svc_dist.storage.access import Access, ClientOptions
from svc_dist.storage.open import open_storage
from svc_dist.storage.secrets import refuse_credentials

_CODE = "checkpoints"
#: Names of checkpoints: checkpoint-1000, iter_0001000, global_step1000, step-1000, epoch_3, ckpt-5, 1000.
_STEP = re.compile(r"(?:(?:checkpoint|ckpt|iter(?:ation)?|global[-_]?step|step|epoch)[-_]?)?(?P<step>\d+)")


def step_of(name: str) -> int | None:
    """The number of a checkpoint, by the name of its folder; None for other folders."""
    match = _STEP.fullmatch(name.rstrip("/").rpartition("/")[2])
    return None if match is None else int(match["step"])


def with_weights(recipe: Recipe, weights: Sequence[float], where: str) -> Recipe:
    """The recipe with a weight for each model. Raises RecipeError."""
    if len(weights) != len(recipe.models):
        raise RecipeError(f"{where}: {len(weights)} weights for {len(recipe.models)} models", code=_CODE)
    models = [
        one.model_copy(update={"parameters": {**one.parameters, "weight": weight}})
        for one, weight in zip(recipe.models, weights, strict=True)
    ]
    return recipe.model_copy(update={"models": models})


def with_checkpoints(data: Any, origin: Origin, folder: str | Path, access: Access) -> Any:
    """A recipe's data with ``models`` and their weights in place of ``checkpoints``. Raises RecipeError, StorageError.

    The base is the last checkpoint, unless the recipe names one. ``access``: for storages without options there.
    """
    if not isinstance(data, Mapping) or data.get("checkpoints") is None:
        return data
    for key in ("models", "slices", "modules"):
        if data.get(key) is not None:
            raise RecipeError(
                f"{origin.at(key)}: the models are the checkpoints of {origin.at('checkpoints')}",
                "remove one of the two keys",
                code=_CODE,
            )
    if data.get("merge_method", "linear") != "linear":
        raise RecipeError(
            f"{origin.at('merge_method')}: a schedule is a mean of checkpoints",
            "write `merge_method: linear`, or remove the key",
            code=_CODE,
        )
    given = data["checkpoints"]
    entry = _entry(given, origin, ("checkpoints",))
    location = absolute(entry.folder, Path(folder).absolute())
    found = _found(location, origin, _access_of(data, access))
    outputs = data.get("outputs")
    windows: list[tuple[dict[str, Any], CheckpointsEntry, KeyPath]] = []
    for index, output in enumerate(outputs if isinstance(outputs, list) else ()):
        if isinstance(output, Mapping):
            own, at = output.get("checkpoints") or {}, ("outputs", index, "checkpoints")
            if not isinstance(own, Mapping) or not isinstance(given, Mapping):
                raise RecipeError(f"{origin.at(*at)}: must be a mapping, like {{last: 4}}", code=_CODE)
            rest = {key: value for key, value in output.items() if key != "checkpoints"}
            windows.append((rest, _entry({**given, **own}, origin, at), at))
    shares = [_shares(found, one, origin, at) for _, one, at in windows] or [
        _shares(found, entry, origin, ("checkpoints",))
    ]
    used = [one for one in found if any(one.step in share for share in shares)]
    models: list[dict[str, Any]] = [{"model": f"{location}/{one.name}"} for one in used]
    made = {key: value for key, value in data.items() if key != "checkpoints"}
    made |= {"merge_method": "linear", "models": models}
    made.setdefault("base_model", models[-1]["model"])
    if windows:
        made["outputs"] = [
            {**rest, "weights": [share.get(one.step, 0.0) for one in used]}
            for (rest, _, _), share in zip(windows, shares, strict=True)
        ]
    else:
        for model, one in zip(models, used, strict=True):
            model["parameters"] = {"weight": shares[0][one.step]}
    return made


@dataclass(frozen=True)
class _Checkpoint:
    step: int
    name: str


def _entry(given: Any, origin: Origin, at: KeyPath) -> CheckpointsEntry:
    try:
        return CheckpointsEntry.model_validate({"folder": given} if isinstance(given, str) else given)
    except ValidationError as error:
        problem = error.errors()[0]
        where = origin.at(*at, *(part for part in problem["loc"] if isinstance(part, str | int)))
        known = [field.alias or name for name, field in CheckpointsEntry.model_fields.items()]
        if problem["type"] == "extra_forbidden":
            text = f"unknown key '{problem['loc'][-1]}'; " + nearest(str(problem["loc"][-1]), known)
            raise RecipeError(f"{where}: {text}", code="unknown-key") from None
        raise RecipeError(f"{where}: {problem['msg'].removeprefix('Value error, ')}", code=_CODE) from None


def _access_of(data: Mapping[str, Any], access: Access) -> Access:
    """The access with the storage options of the recipe, which is not yet checked."""
    storage = data.get("storage")
    options: dict[str, ClientOptions] = {}
    for prefix, one in storage.items() if isinstance(storage, Mapping) else ():
        try:
            options[str(prefix)] = ClientOptions(**dict(StorageOptions.model_validate(one)))
        except ValidationError:
            continue  # the check of the whole recipe names it
    return Access({**access.options, **options}) if options else access


def _found(location: str, origin: Origin, access: Access) -> list[_Checkpoint]:
    """The checkpoints in a run's folder by rising step."""
    where = origin.at("checkpoints", "folder")
    refuse_credentials(location, where)
    folders = open_storage(location, access).folders()
    numbered = ((step_of(name), name) for name in folders)
    found = sorted((_Checkpoint(step, name) for step, name in numbered if step is not None), key=lambda one: one.step)
    twice = next((pair for pair in itertools.pairwise(found) if pair[0].step == pair[1].step), None)
    if twice is not None:
        raise RecipeError(f"{where}: {twice[0].name} and {twice[1].name} are the same step", code=_CODE)
    if not found:
        shown = f"only {', '.join(folders[:5])}" if folders else "no folder"
        raise RecipeError(
            f"{where}: {location} holds {shown}: no checkpoint",
            "name the folder that holds checkpoint-1000/, checkpoint-2000/, ... (or iter_0001000/, global_step1000/)",
            code=_CODE,
        )
    return found


def _shares(found: Sequence[_Checkpoint], entry: CheckpointsEntry, origin: Origin, at: KeyPath) -> dict[int, float]:
    """The weight of each checkpoint of a window, by its step."""
    low, high = entry.first or 0, entry.end
    inside = [one for one in found if low <= one.step and (high is None or one.step <= high)]
    chosen = inside[::-1][:: entry.every][::-1]
    if entry.last is not None:
        if entry.last > len(chosen):
            raise RecipeError(
                f"{origin.at(*at, 'last')}: {entry.last} checkpoints are wanted, but only {len(chosen)} are there",
                f"they are steps {', '.join(str(one.step) for one in chosen[:8])}" if chosen else None,
                code=_CODE,
            )
        chosen = chosen[-entry.last :]
    if len(chosen) < 2:
        steps = f"steps {found[0].step:,} to {found[-1].step:,}"
        raise RecipeError(
            f"{origin.at(*at)}: {len(chosen)} of {len(found)} checkpoints ({steps}) fit; a mean needs at least two",
            "widen the window (`last`, `every`, `from`, `to`)",
            code=_CODE,
        )
    numbers = [one.step for one in chosen]
    return dict(zip(numbers, schedule_weights(entry.schedule, numbers, entry.decay, entry.beta), strict=True))
