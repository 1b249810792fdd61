"""What a recipe chooses for its tensors: a merge method with complete parameters and a calibration, or a model to copy.

Each name and each value is checked, and defaults are filled in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from svc_dist.errors import RecipeError
from svc_dist.methods.method import Method, any_deferred
from svc_dist.methods.registry import METHODS
from svc_dist.recipe.locations import RecipeModel, model_number
from svc_dist.recipe.mergekit.parameters import WITHOUT_EFFECT
from svc_dist.recipe.mergekit.refused import method_hint
from svc_dist.recipe.origin import Origin, nearest
from svc_dist.recipe.rules.calibrations import complete_calibration, lacks_alpha, overridden
from svc_dist.recipe.rules.conditions import least_difference
from svc_dist.recipe.rules.keys import Calibrate, OnlyWhere, RuleEntry
from svc_dist.recipe.rules.subsets import Subset, all_models, named_models, takes_the_rest
from svc_dist.recipe.schema import Recipe
from svc_dist.recipe.training.checkpoints import with_weights
from svc_dist.recipe.varying import Varying, check_setting, typed


@dataclass(frozen=True)
class MergeChoice:
    """A merge method with its parameters complete (``per_model`` ones as a list over experts) and a calibration.

    Parameters that vary by tensor are ``Varying``. ``where``: where the choice stands, for messages.
    ``default_alpha``: the recipe gives the calibration no ``alpha``. ``models``: the numbers of the base and of the
    experts that take part, None for all. ``fallback``: for tensors that a spectral method cannot merge.
    ``least_difference``: a tensor is merged where some expert's relative difference from the base exceeds this.
    """

    method: str
    parameters: dict[str, Any]
    calibration: dict[str, Any] | None
    models: tuple[int, ...] | None = None
    fallback: MergeChoice | None = None
    least_difference: float | None = None
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
            raise RecipeError(f"{self.where}: tensor {name!r}: {error.message}", error.hint, code=error.code) from None
        return values


@dataclass(frozen=True)
class KeepChoice:
    """A tensor as it is in model ``source`` (0: the base, 1: the first expert); None: in the one model that has it.

    ``dropped``: it is left out, whoever has it.
    """

    source: int | None
    dropped: bool = False


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
        return (_Request(recipe, models, origin, recipe.parameters, recipe.calibrate, recipe.only_where).result(""),)
    results = []
    for index, entry in enumerate(recipe.outputs):
        scale = {} if entry.scale is None else {"lambda": entry.scale}
        parameters = {**recipe.parameters, **entry.parameters, **scale}
        calibrate = overridden(recipe.calibrate, entry.calibrate)
        chosen = recipe if entry.weights is None else with_weights(recipe, entry.weights, origin.at("outputs", index))
        where = recipe.only_where if entry.only_where is None else entry.only_where
        request = _Request(chosen, models, replace(origin, overlay=("outputs", index)), parameters, calibrate, where)
        results.append(request.result(entry.path))
    return tuple(results)


@dataclass(frozen=True)
class _Request:
    """The recipe with the ``parameters``, the ``calibrate`` and the ``only_where`` of one result in place."""

    recipe: Recipe
    models: Sequence[RecipeModel]
    origin: Origin
    parameters: Mapping[str, Any]
    calibrate: Calibrate | None
    only_where: OnlyWhere | None

    def result(self, path: str) -> ResultChoices:
        recipe, origin = self.recipe, self.origin
        method = find_method(recipe.merge_method, origin.at("merge_method"))
        _check_parameters(method, self.parameters, origin, "parameters")
        for index, entry in enumerate(recipe.models):
            _check_parameters(method, entry.parameters, origin, "models", index, "parameters", per_model=True)
        rules = tuple(self._rule(index, rule, method) for index, rule in enumerate(recipe.rules))
        rest = next((rules[index] for index, rule in enumerate(recipe.rules) if takes_the_rest(rule)), None)
        if isinstance(rest, MergeChoice):
            return ResultChoices(path, rest, rest.fallback or self._fallback(), rules)
        blamed = "parameters"
        if method.experts != (1, None):
            blamed = "merge_method"
        elif any(entry.parameters for entry in recipe.models):
            blamed = "models"
        default = self._choice(method, {}, self.calibrate, origin.at(blamed), "calibrate")
        least = least_difference(method.name, default.models, self.only_where, None, origin, "only_where")
        default = replace(default, where=origin.at("parameters"), least_difference=least)
        return ResultChoices(path, default, default if len(self.models) == 1 else self._fallback(), rules)

    def _fallback(self, subset: Subset | None = None) -> MergeChoice:
        """The choice for tensors that a spectral method cannot merge: the same parameters for all experts."""
        given, where = self.recipe.fallback, self.origin.at("fallback")
        extra = sorted(set(given) - {"method", "parameters"})
        if extra:
            where = self.origin.at("fallback", extra[0])
            raise RecipeError(
                f"{where}: fallback takes method and parameters, not '{extra[0]}'", code="fallback-not-elementwise"
            )
        method = find_method(given.get("method", "linear"), where)
        if method.family != "elementwise":
            raise RecipeError(
                f"{where}: {method.name} cannot merge every tensor",
                "choose an element-wise method",
                code="fallback-not-elementwise",
            )
        own = given.get("parameters", {})
        _check_parameters(method, own, self.origin, "fallback", "parameters")
        return self._choice(method, own, None, where, alike=True, subset=subset)

    def _rule(self, index: int, rule: RuleEntry, method: Method) -> MergeChoice | KeepChoice:
        """What a rule chooses. ``method``: the recipe's, for a rule that names none."""
        where = self.origin.at("rules", index)
        merges = bool(rule.merge_method or rule.parameters or rule.calibrate or rule.vocab or rule.stored or rule.rank)
        merges = merges or bool(rule.models or rule.base_model or rule.only_where)
        if rule.keep is not None:
            if merges:
                what = "no other key than match, kind, layer_range and dtype"
                raise RecipeError(f"{where}: a rule with keep takes {what}", code="rule-keys-contradict")
            if rule.keep in ("owner", "none"):
                return KeepChoice(None, dropped=rule.keep == "none")
            return KeepChoice(model_number(rule.keep, self.models, self.origin.at("rules", index, "keep")))
        if not merges and rule.dtype is None:
            raise RecipeError(
                f"{where}: the rule changes nothing",
                "add keep, merge_method, parameters, calibrate, models, only_where, vocab, stored, rank or dtype",
                code="rule-changes-nothing",
            )
        if rule.merge_method is not None:
            method = find_method(rule.merge_method, self.origin.at("rules", index, "merge_method"))
        _check_parameters(method, rule.parameters, self.origin, "rules", index, "parameters")
        for position, entry in enumerate(rule.models or ()):
            inner = ("rules", index, "models", position, "parameters")
            _check_parameters(method, entry.parameters, self.origin, *inner, per_model=True)
        named = self.recipe.base_model is not None
        subset = named_models(rule, index, self.models, method, named, self.origin)
        path: tuple[str | int, ...] = ("calibrate",) if rule.calibrate is None else ("rules", index, "calibrate")
        calibrate = self.calibrate if rule.calibrate is None else rule.calibrate
        choice = self._choice(method, rule.parameters, calibrate, where, *path, subset=subset)
        conditions = (rule.only_where, self.only_where)
        least = least_difference(method.name, choice.models, *conditions, self.origin, "rules", index, "only_where")
        choice = replace(choice, least_difference=least)
        if subset is None or method.family != "spectral":
            return choice
        return replace(choice, fallback=self._fallback(subset))

    def _adds_base(self) -> bool:
        """Whether an unlisted base takes part in ``linear``, with the weight for all models, as in mergekit."""
        recipe = self.recipe
        return recipe.merge_method == "linear" and recipe.base_model is not None and "weight" in self.parameters

    def _choice(
        self,
        method: Method,
        own: Mapping[str, Any],
        calibrate: Calibrate | None,
        where: str,
        *calibrate_path: str | int,
        alike: bool = False,
        subset: Subset | None = None,
    ) -> MergeChoice:
        """A choice with each parameter from ``own``, else the expert's, else the result's, else the default.

        ``alike``: without the parameters of experts and of the result; ``subset``: the models that take part, whose
        own parameters come first.
        """
        subset = subset or all_models(self.models, method, self.recipe.base_model is not None)
        entries, experts = self.recipe.models, len(subset.experts)
        common = {} if alike else self.parameters

        def of(number: int, own: Mapping[str, Any]) -> dict[str, Any]:
            position = self.models[number].position
            listed = {} if position is None or alike else entries[position].parameters
            return _settings(method, {} if alike else subset.given.get(number, {}), own, listed, common)

        listed = subset.listed and (method.base != "no base" or not subset.named)
        added = method.base == "model" or (method.base == "listed" and subset.everyone and self._adds_base())
        takes_part = not alike and (listed or added)
        try:
            parameters = method.complete(
                experts,
                _settings(method, own, common),
                [of(number, own) for number in subset.experts],
                of(subset.base, {} if subset.everyone else own) if takes_part else None,
            )
        except RecipeError as error:
            raise RecipeError(f"{where}: {error.message}", error.hint, code=error.code) from None
        calibration = complete_calibration(calibrate, experts, self.origin, *calibrate_path)
        default_alpha = calibration is not None and lacks_alpha(calibrate)
        chosen = (method.name, parameters, calibration, subset.models)
        return MergeChoice(*chosen, experts=experts, where=where, default_alpha=default_alpha)


def find_method(name: Any, where: str) -> Method:
    """The merge method of this name. Raises RecipeError."""
    if not isinstance(name, str) or name not in METHODS:
        raise RecipeError(
            f"{where}: there is no merge method '{name}'", method_hint(str(name), list(METHODS)), code="unknown-method"
        )
    return METHODS[name]


def _settings(method: Method, *layers: Mapping[str, Any]) -> dict[str, Any]:
    """Each parameter's setting in the first of ``layers`` that has one; all of them where it may vary by tensor."""
    settings: dict[str, Any] = {}
    for parameter in method.all_parameters:
        given = [layer[parameter.name] for layer in layers if parameter.name in layer]
        if given:
            varies = isinstance(given[0], list | Mapping)
            settings[parameter.name] = (
                Varying(parameter, tuple(typed(parameter, one, method.name) for one in given)) if varies else given[0]
            )
    return settings


def _check_parameters(method: Method, given: Any, origin: Origin, *path: str | int, per_model: bool = False) -> None:
    """Names and values that the method takes, at ``path``. ``per_model``: of one expert. Raises RecipeError."""
    if not isinstance(given, Mapping):
        raise RecipeError(
            f"{origin.at(*path)}: parameters must be a mapping, like {{weight: 0.3}}", code="value-not-allowed"
        )
    for name, value in given.items():
        where = origin.at(*path, name)
        if name in WITHOUT_EFFECT:
            continue
        parameter = method.parameter(name)
        if parameter is None:
            raise RecipeError(
                f"{where}: {method.name} takes no parameter '{name}'",
                nearest(name, [known.name for known in method.all_parameters]),
                code="unknown-parameter",
            )
        if per_model and not parameter.per_model:
            raise RecipeError(
                f"{where}: '{name}' is one value for all experts",
                "put it under the top-level parameters",
                code="parameter-not-per-model",
            )
        check_setting(parameter, value, f"{where}: {method.name}")
