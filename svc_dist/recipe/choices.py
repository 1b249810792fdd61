"""What a recipe chooses for its tensors: a merge method with complete parameters and a calibration, or a model to keep.

Every name and value is checked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from svc_dist.errors import RecipeError
from svc_dist.methods.method import Method, any_deferred
from svc_dist.methods.registry import METHODS
from svc_dist.recipe.completion import check_parameters, complete_parameters, find_method, resolve_calibration
from svc_dist.recipe.locations import RecipeModel, model_number
from svc_dist.recipe.origin import Origin
from svc_dist.recipe.schema import Recipe, RuleEntry
from svc_dist.recipe.varying import Varying


@dataclass(frozen=True)
class MergeChoice:
    """A merge method with its parameters complete (``per_model`` ones as a list over experts) and a calibration.

    Parameters that vary by tensor are ``Varying``. ``where``: where the choice stands, for messages.
    ``default_alpha``: the recipe gives the calibration no ``alpha``.
    """

    method: str
    parameters: dict[str, Any]
    calibration: dict[str, Any] | None
    experts: int = field(default=0, compare=False)
    where: str = field(default="", compare=False)
    default_alpha: bool = field(default=False, compare=False)

    @cached_property
    def varies(self) -> bool:
        """Whether parameters depend on the tensor."""
        return any_deferred(self.parameters)

    def at(self, name: str, depth: float) -> dict[str, Any]:
        """The parameters for one tensor, whose layer lies at ``depth`` (0 the first, 1 the last).

        Raises RecipeError where they do not go together.
        """
        if not self.varies:
            return self.parameters

        def value(given: Any) -> Any:
            return given.at(name, depth) if isinstance(given, Varying) else given

        try:
            values = {
                key: [value(each) for each in given] if isinstance(given, list) else value(given)
                for key, given in self.parameters.items()
            }
            METHODS[self.method].require_possible(values, self.experts)
        except RecipeError as error:
            raise RecipeError(f"{self.where}: tensor {name!r}: {error.message}", error.hint) from None
        return values


@dataclass(frozen=True)
class KeepChoice:
    """A tensor as it is in model ``source`` (0: the base, 1: the first expert); None: in the one model that has it."""

    source: int | None


@dataclass(frozen=True)
class ResultChoices:
    """The choices for one result: its folder inside OUTPUT ("" for OUTPUT itself), and what is chosen for tensors
    without a rule, for those that a spectral method does not take, and by each rule."""

    path: str
    default: MergeChoice
    fallback: MergeChoice
    rules: tuple[MergeChoice | KeepChoice, ...]

    @property
    def merges(self) -> tuple[MergeChoice, ...]:
        """The choices that merge: the default and those of rules."""
        return (self.default, *(rule for rule in self.rules if isinstance(rule, MergeChoice)))


def resolve_results(recipe: Recipe, models: Sequence[RecipeModel], origin: Origin) -> tuple[ResultChoices, ...]:
    """The choices for each of the recipe's results. Raises RecipeError naming key, line and what is allowed."""
    if not recipe.outputs:
        return (_Request(recipe, models, origin, recipe.parameters, recipe.calibrate).result(""),)
    results = []
    for index, entry in enumerate(recipe.outputs):
        scale = {} if entry.scale is None else {"lambda": entry.scale}
        parameters = {**recipe.parameters, **entry.parameters, **scale}
        calibrate = recipe.calibrate if entry.calibrate is None else entry.calibrate
        if entry.calibrate is not None and "method" not in entry.calibrate:
            calibrate = {**(recipe.calibrate or {}), **entry.calibrate}
        request = _Request(recipe, models, replace(origin, overlay=("outputs", index)), parameters, calibrate)
        results.append(request.result(entry.path))
    return tuple(results)


@dataclass(frozen=True)
class _Request:
    """What is asked for one result: the recipe, with the result's own ``parameters`` and ``calibrate`` in place."""

    recipe: Recipe
    models: Sequence[RecipeModel]
    origin: Origin
    parameters: Mapping[str, Any]
    calibrate: Mapping[str, Any] | None

    @property
    def _experts(self) -> list[Mapping[str, Any]]:
        """Each expert's own parameters."""
        return [self.recipe.models[model.position or 0].parameters for model in self.models[1:]]

    @property
    def _base(self) -> Mapping[str, Any] | None:
        """The base's parameters where it is listed among the models."""
        position = self.models[0].position
        return None if position is None else self.recipe.models[position].parameters

    def result(self, path: str) -> ResultChoices:
        recipe, origin = self.recipe, self.origin
        method = find_method(recipe.merge_method, origin.at("merge_method"))
        check_parameters(method, self.parameters, origin, "parameters")
        for index, entry in enumerate(recipe.models):
            check_parameters(method, entry.parameters, origin, "models", index, "parameters", per_model=True)
        blamed = "parameters"
        if method.experts != (1, None):
            blamed = "merge_method"
        elif any(entry.parameters for entry in recipe.models):
            blamed = "models"
        parameters = complete_parameters(method, {}, self.parameters, self._experts, self._base, origin.at(blamed))
        default = self._choice(method, parameters, self.calibrate, origin.at("parameters"), "calibrate")
        rules = tuple(self._rule(index, rule, method) for index, rule in enumerate(recipe.rules))
        return ResultChoices(path, default, self._fallback(), rules)

    def _fallback(self) -> MergeChoice:
        """The choice for what a spectral method does not take: all experts alike."""
        given, where = self.recipe.fallback, self.origin.at("fallback")
        extra = sorted(set(given) - {"method", "parameters"})
        if extra:
            where = self.origin.at("fallback", extra[0])
            raise RecipeError(f"{where}: fallback takes method and parameters, not '{extra[0]}'")
        method = find_method(given.get("method", "linear"), where)
        if method.family != "elementwise":
            raise RecipeError(f"{where}: {method.name} cannot merge every tensor", "choose an element-wise method")
        own = given.get("parameters", {})
        check_parameters(method, own, self.origin, "fallback", "parameters")
        parameters = complete_parameters(method, own, {}, [{}] * len(self._experts), None, where)
        return self._choice(method, parameters, None, where, "fallback")

    def _rule(self, index: int, rule: RuleEntry, method: Method) -> MergeChoice | KeepChoice:
        """What a rule chooses; ``method``: the recipe's, which counts where the rule names none."""
        where = self.origin.at("rules", index)
        merges = bool(rule.merge_method or rule.parameters or rule.calibrate or rule.vocab)
        if rule.keep is not None:
            if merges:
                raise RecipeError(f"{where}: a rule with keep takes no other key than match")
            if rule.keep == "owner":
                return KeepChoice(None)
            return KeepChoice(model_number(rule.keep, self.models, self.origin.at("rules", index, "keep")))
        if not merges:
            raise RecipeError(
                f"{where}: the rule changes nothing", "add keep, merge_method, parameters, calibrate or vocab"
            )
        if rule.merge_method is not None:
            method = find_method(rule.merge_method, self.origin.at("rules", index, "merge_method"))
        check_parameters(method, rule.parameters, self.origin, "rules", index, "parameters")
        parameters = complete_parameters(method, rule.parameters, self.parameters, self._experts, self._base, where)
        if rule.calibrate is None:
            return self._choice(method, parameters, self.calibrate, where, "calibrate")
        return self._choice(method, parameters, rule.calibrate, where, "rules", index, "calibrate")

    def _choice(
        self,
        method: Method,
        parameters: dict[str, Any],
        calibrate: Mapping[str, Any] | None,
        where: str,
        *calibrate_path: str | int,
    ) -> MergeChoice:
        calibration = resolve_calibration(calibrate, len(self._experts), self.origin, *calibrate_path)
        default_alpha = calibration is not None and "alpha" not in (calibrate or {})
        return MergeChoice(method.name, parameters, calibration, len(self._experts), where, default_alpha)
