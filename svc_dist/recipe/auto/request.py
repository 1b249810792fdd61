"""What a recipe leaves to ``auto``: checked when it is read, chosen when the merge is planned."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from svc_dist.errors import RecipeError
from svc_dist.methods.auto.choice import AUTO, AutoChoice
from svc_dist.recipe.origin import KeyPath, Origin
from svc_dist.recipe.rules.keys import Calibrate
from svc_dist.recipe.schema import Recipe

_CODE = "auto-refused"
#: In place of what is not chosen yet, so that models and rules can be resolved. No plan is made of it.
_STAND_IN: Mapping[str, Any] = {"merge_method": "task_arithmetic", "parameters": {}, "calibrate": {"method": "none"}}


@dataclass(frozen=True)
class AutoRequest:
    """A recipe with ``auto``. ``asked``: the keys that decide about the choice, as the recipe has them.

    ``recorded``: what it chose for the run that a merge resumes, and the models for which it did.
    """

    recipe: Recipe = field(repr=False)
    asked: Mapping[str, Any]
    recorded: tuple[AutoChoice, Sequence[Any]] | None = field(default=None, repr=False)

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys that it stands for."""
        if self.asked["merge_method"] != AUTO:
            return ("calibrate",)
        own = self.recipe.calibrate
        return ("merge_method", "parameters", *(["calibrate"] if own is None or _is_auto(own) else []))

    @property
    def where(self) -> str:
        """The key of the recipe that says it."""
        return "merge_method" if self.asked["merge_method"] == AUTO else "calibrate"

    @property
    def stand_in(self) -> Recipe:
        return self.filled(_STAND_IN)

    def filled(self, keys: Mapping[str, Any]) -> Recipe:
        """The recipe with chosen keys in place of ``auto``."""
        update: dict[str, Any] = {key: keys[key] for key in self.keys}
        if "merge_method" in update:
            update["rules"] = [
                rule.model_copy(update={"merge_method": keys["merge_method"]}) if rule.merge_method == AUTO else rule
                for rule in self.recipe.rules
            ]
        return self.recipe.model_copy(update=update)

    def filled_plain(self, plain: Mapping[str, Any], keys: Mapping[str, Any]) -> dict[str, Any]:
        """A resolved recipe's plain data with chosen keys in place of ``auto``."""
        changed = {**plain, **{key: keys[key] for key in self.keys}}
        if "merge_method" in self.keys:
            changed["rules"] = [
                {**one, "merge_method": keys["merge_method"]} if rule.merge_method == AUTO else one
                for one, rule in zip(plain["rules"], self.recipe.rules, strict=True)
            ]
        return changed

    def asked_plain(self, plain: Mapping[str, Any]) -> dict[str, Any]:
        """A resolved recipe's plain data with ``auto`` as the recipe has it, where nothing is chosen."""
        asked = {key: self.asked.get(key) or {} for key in self.keys}
        return {key: value for key, value in self.filled_plain(plain, asked).items() if key != "calibrate" or value}

    def recorded_for(self, models: Sequence[Any]) -> AutoChoice | None:
        """What it chose for a run before, if the same was asked and no file of the models has changed since."""
        if self.recorded is None or tuple(self.recorded[1]) != tuple(models):
            return None
        return self.recorded[0] if self.recorded[0].asked == self.asked else None


def auto_request(recipe: Recipe, origin: Origin) -> AutoRequest | None:
    """What a recipe leaves to ``auto``; None for nothing. Raises RecipeError where ``auto`` cannot choose."""
    whole = recipe.merge_method == AUTO
    for path, calibration in _calibrations(recipe):
        if _is_auto(calibration) and (path != ("calibrate",) or calibration != {"method": AUTO}):
            raise RecipeError(
                f"{origin.at(*path)}: auto chooses one calibration for the whole recipe",
                "write `calibrate: auto` at the top level, without other keys, or name a calibration here",
                code=_CODE,
            )
    for number, rule in enumerate(recipe.rules):
        if rule.merge_method == AUTO and not whole:
            raise RecipeError(
                f"{origin.at('rules', number, 'merge_method')}: auto chooses one merge method for the whole recipe",
                "write `merge_method: auto` at the top level, or name a method here",
                code=_CODE,
            )
    if not whole and not _is_auto(recipe.calibrate):
        return None
    if whole:
        _refuse_parameters(recipe, origin)
    if recipe.base_model is None:
        raise RecipeError(
            f"{origin.at('merge_method' if whole else 'calibrate')}: auto compares experts with a base",
            "add base_model",
            code="base-missing",
        )
    data = recipe.model_dump(mode="json", include={"merge_method", "parameters", "calibrate"})
    asked = {key: AUTO if data[key] == {"method": AUTO} else data[key] for key in ("merge_method", "calibrate")}
    return AutoRequest(recipe, asked if whole else {**asked, "parameters": data["parameters"]})


def _is_auto(calibration: Calibrate | None) -> bool:
    """Whether ``auto`` stands anywhere in a calibration."""
    each = calibration if isinstance(calibration, list) else [calibration or {}]
    return any(one.get("method") == AUTO for one in each)


def _calibrations(recipe: Recipe) -> Iterator[tuple[KeyPath, Calibrate | None]]:
    yield ("calibrate",), recipe.calibrate
    for number, rule in enumerate(recipe.rules):
        yield ("rules", number, "calibrate"), rule.calibrate
    for number, output in enumerate(recipe.outputs):
        yield ("outputs", number, "calibrate"), output.calibrate


def _refuse_parameters(recipe: Recipe, origin: Origin) -> None:
    """Raise RecipeError for parameters of a method that is not chosen yet."""
    own = [
        (number, rule)
        for number, rule in enumerate(recipe.rules)
        if rule.merge_method is None or rule.merge_method == AUTO
    ]
    given: list[tuple[KeyPath, Any]] = [(("parameters",), recipe.parameters)]
    given += [(("models", n, "parameters"), entry.parameters) for n, entry in enumerate(recipe.models)]
    given += [(("rules", n, "parameters"), rule.parameters) for n, rule in own]
    given += [
        (("rules", n, "models", m, "parameters"), one.parameters)
        for n, rule in own
        for m, one in enumerate(rule.models or ())
    ]
    for n, output in enumerate(recipe.outputs):
        given += [(("outputs", n, "parameters"), output.parameters), (("outputs", n, "lambda"), output.scale)]
        given += [(("outputs", n, "weights"), output.weights)]
    path = next((path for path, values in given if values not in (None, {})), None)
    if path is not None:
        raise RecipeError(
            f"{origin.at(*path)}: auto chooses the parameters together with the merge method",
            "remove them, or write the merge method that they are for: `svc-dist plan` shows what auto chooses without "
            "them, to begin with",
            code=_CODE,
        )
