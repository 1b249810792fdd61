"""What a recipe asks for: methods with complete parameters, and calibrations, each name and value checked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

from svc_dist.errors import RecipeError
from svc_dist.methods.parameters import Parameter
from svc_dist.methods.registry import CALIBRATIONS, METHODS, Calibration, Method
from svc_dist.recipe.mergekit import WITHOUT_EFFECT, method_hint, parameter_hint
from svc_dist.recipe.schema import Recipe, nearest
from svc_dist.recipe.varying import Varying, check_setting, varies
from svc_dist.storage.base import split_location
from svc_dist.storage.secrets import refuse_credentials


@dataclass(frozen=True)
class Choice:
    """A merge method with its parameters complete (``per_model`` ones as a list over experts) and a calibration.

    Parameters that vary by tensor stand there as ``Varying``; ``where`` says where they come from, for messages.
    """

    method: str
    parameters: dict[str, Any]
    calibration: dict[str, Any] | None
    experts: int = field(default=0, compare=False)
    where: str = field(default="", compare=False)

    @cached_property
    def varies(self) -> bool:
        """Whether parameters depend on the tensor."""
        values = [
            each for value in self.parameters.values() for each in (value if isinstance(value, list) else [value])
        ]
        return any(isinstance(value, Varying) for value in values)

    def at(self, name: str, depth: float) -> dict[str, Any]:
        """The parameters for one tensor, whose layer lies at ``depth`` (0 the first, 1 the last).

        Raises RecipeError where they do not go together.
        """
        if not self.varies:
            return self.parameters

        def value(given: Any) -> Any:
            return given.at(name, depth) if isinstance(given, Varying) else given

        try:
            found = {
                key: [value(each) for each in given] if isinstance(given, list) else value(given)
                for key, given in self.parameters.items()
            }
            _require_possible(METHODS[self.method], found, self.experts)
        except RecipeError as error:
            raise RecipeError(f"{self.where}: tensor {name!r}: {error.message}", error.hint) from None
        return found


@dataclass(frozen=True)
class Keep:
    """A tensor as it is in model ``source`` (0: the base, 1: the first expert); None: in the one model that has it."""

    source: int | None


class Choices(NamedTuple):
    """What a recipe asks for: the experts in order, and the choice of the recipe, its fallback and each rule.

    ``config`` and ``tokenizer``: the models (0: the base) whose files the result gets.
    """

    base: str
    experts: list[str]
    default: Choice
    fallback: Choice
    rules: list[Choice | Keep]
    config: int
    tokenizer: int

    @property
    def locations(self) -> list[str]:
        """Every location that is read: the base's, and each expert's, of its model and its adapter."""
        return [self.base, *(part for expert in self.experts for part in split_location(expert) if part is not None)]


def choices(recipe: Recipe) -> Choices:
    """Resolve methods, parameters and calibrations. Raises RecipeError naming key, line and what is allowed."""
    refuse_credentials(recipe.base_model or "", recipe.where("base_model"))
    for index, entry in enumerate(recipe.models):
        for part in (entry.model, *entry.model.split("+")):
            refuse_credentials(part, recipe.where("models", index, "model"))
    method = _method(recipe.merge_method, recipe.where("merge_method"))
    if recipe.base_model is None and method.name != "linear":
        raise RecipeError(f"{recipe.where()}: merge_method {method.name} needs base_model")
    base = recipe.location(recipe.base_model or recipe.models[0].model)
    if split_location(base)[1] is not None:
        where = recipe.where("base_model") if recipe.base_model else recipe.where("models", 0, "model")
        raise RecipeError(
            f"{where}: the base is a whole model, not model+adapter", "merge the adapter into it with peft first"
        )
    locations = [recipe.location(entry.model) for entry in recipe.models]
    for index, location in enumerate(locations):
        if location in locations[:index]:
            raise RecipeError(f"{recipe.where('models', index, 'model')}: {location} is listed twice")
    experts = [location for location in locations if location != base]
    if not experts:
        raise RecipeError(f"{recipe.where('models')}: no expert besides the base")

    _check_parameters(recipe, method, recipe.parameters, ("parameters",))
    for index, entry in enumerate(recipe.models):
        _check_parameters(recipe, method, entry.parameters, ("models", index, "parameters"), per_model=True)
    calibration = _calibration(recipe, recipe.calibrate, ("calibrate",), len(experts))
    default = _complete(recipe, method, base, recipe.parameters, {}, calibration, ("parameters",))

    extra = sorted(set(recipe.fallback) - {"method", "parameters"})
    if extra:
        raise RecipeError(
            f"{recipe.where('fallback', extra[0])}: fallback takes method and parameters, not '{extra[0]}'"
        )
    fallback_method = _method(recipe.fallback.get("method", "linear"), recipe.where("fallback"))
    if fallback_method.family != "elementwise":
        raise RecipeError(f"{recipe.where('fallback')}: {fallback_method.name} does not take every tensor")
    own = recipe.fallback.get("parameters", {})
    _check_parameters(recipe, fallback_method, own, ("fallback", "parameters"))
    fallback = _complete(recipe, fallback_method, base, {}, own, None, ("fallback",), equal=True)

    models = [base, *experts]
    resolved: list[Choice | Keep] = []
    for index, rule in enumerate(recipe.rules):
        where = recipe.where("rules", index)
        if rule.keep is not None:
            if rule.merge_method or rule.parameters or rule.calibrate or rule.vocab:
                raise RecipeError(f"{where}: a rule with keep takes nothing else but match")
            kept = None if rule.keep == "owner" else models.index(recipe.named(rule.keep, "rules", index, "keep"))
            resolved.append(Keep(kept))
            continue
        if not (rule.merge_method or rule.parameters or rule.calibrate or rule.vocab):
            raise RecipeError(
                f"{where}: the rule says nothing", "give it keep, merge_method, parameters, calibrate or vocab"
            )
        rule_method = method
        if rule.merge_method is not None:
            rule_method = _method(rule.merge_method, recipe.where("rules", index, "merge_method"))
        _check_parameters(recipe, rule_method, rule.parameters, ("rules", index, "parameters"))
        rule_calibration = calibration
        if rule.calibrate is not None:
            rule_calibration = _calibration(recipe, rule.calibrate, ("rules", index, "calibrate"), len(experts))
        resolved.append(
            _complete(recipe, rule_method, base, recipe.parameters, rule.parameters, rule_calibration, ("rules", index))
        )
    config = 0 if recipe.config_source is None else models.index(recipe.named(recipe.config_source, "config_source"))
    path, source = recipe.tokenizer_from
    tokenizer = config if source is None else models.index(recipe.named(source, *path))
    return Choices(base, experts, default, fallback, resolved, config, tokenizer)


def _method(name: Any, where: str) -> Method:
    if not isinstance(name, str) or name not in METHODS:
        raise RecipeError(f"{where}: there is no merge method '{name}'", method_hint(str(name), METHODS))
    return METHODS[name]


def _check_parameters(
    recipe: Recipe, method: Method, given: Any, path: tuple[str | int, ...], per_model: bool = False
) -> None:
    if not isinstance(given, Mapping):
        raise RecipeError(f"{recipe.where(*path)}: parameters is a mapping, like {{weight: 0.3}}")
    for name, value in given.items():
        where = recipe.where(*path, name)
        if name in WITHOUT_EFFECT:
            continue
        parameter = method.parameter(name)
        if parameter is None:
            raise RecipeError(
                f"{where}: {method.name} takes no parameter '{name}'",
                parameter_hint(method.name, name, [known.name for known in method.all_parameters]),
            )
        if per_model and not parameter.per_model:
            raise RecipeError(
                f"{where}: '{name}' is one value for all experts", "put it under the top-level parameters"
            )
        check_setting(parameter, value, f"{where}: {method.name}")


def _complete(
    recipe: Recipe,
    method: Method,
    base: str,
    common: Mapping[str, Any],
    own: Mapping[str, Any],
    calibration: dict[str, Any] | None,
    path: tuple[str | int, ...],
    equal: bool = False,
) -> Choice:
    """A choice with every parameter: the rule's own value, else the expert's, else the recipe's, else the default."""
    complete: dict[str, Any] = {}
    base_entry: dict[str, Any] | None = None
    experts: list[Mapping[str, Any]] = []
    for entry in recipe.models:
        if recipe.location(entry.model) == base:
            base_entry = entry.parameters
        else:
            experts.append({} if equal else entry.parameters)
    for parameter in method.all_parameters:
        name = parameter.name
        shared = [given[name] for given in (own, common) if name in given]
        if not parameter.per_model:
            complete[name] = _value(parameter, shared)
            continue
        before, after = [own[name]] if name in own else [], [common[name]] if name in common else []
        complete[name] = [
            _value(parameter, [*before, *([entry[name]] if name in entry else []), *after]) for entry in experts
        ]
    if method.takes_base:
        weight = method.parameter("weight")
        takes_part = base_entry is not None and not equal and weight is not None
        given = [source["weight"] for source in (base_entry or {}, common) if "weight" in source]
        complete["base_weight"] = _value(weight, given) if takes_part and weight is not None else 0.0
    choice = Choice(method.name, complete, calibration, len(experts), recipe.where(*path))
    if not choice.varies:
        try:
            _require_possible(method, complete, len(experts))
        except RecipeError as error:
            raise RecipeError(f"{_asked(recipe, method, path)}: {error.message}", error.hint) from None
    return choice


def _asked(recipe: Recipe, method: Method, path: tuple[str | int, ...]) -> str:
    """Where what does not go together stands: in a rule, the fallback, the models or the parameters."""
    if path[0] != "parameters":
        return recipe.where(*path)
    if method.experts != (1, None):
        return recipe.where("merge_method")
    return recipe.where("models" if any(entry.parameters for entry in recipe.models) else "parameters")


def _value(parameter: Parameter, settings: Sequence[Any]) -> Any:
    """The first of ``settings``, else the default; where it may depend on the tensor, all that may count."""
    if not settings:
        return parameter.default if parameter.default is None else parameter.kind(parameter.default)
    return Varying(parameter, tuple(settings)) if varies(settings[0]) else parameter.kind(settings[0])


def _require_possible(method: Method, parameters: Mapping[str, Any], experts: int) -> None:
    """Parameters that go together, for as many experts as there are. Raises RecipeError."""
    if parameters.get("normalize") and method.name in ("linear", "task_arithmetic"):
        total = sum(parameters["weight"]) + parameters.get("base_weight", 0.0)
        if abs(total) < 1e-12:
            raise RecipeError(
                f"the weights add up to zero, which {method.name} cannot normalize",
                "change a weight, or set normalize: false",
            )
    if (reason := method.refusal(parameters, experts)) is not None:
        raise RecipeError(reason)


def _calibration(
    recipe: Recipe, given: Mapping[str, Any] | None, path: tuple[str | int, ...], experts: int
) -> dict[str, Any] | None:
    if given is None or given.get("method") == "none":
        return None
    name = given.get("method")
    if name is None:
        raise RecipeError(
            f"{recipe.where(*path)}: the key 'method' is missing", "write it like {method: svc, alpha: 0.5}"
        )
    if not isinstance(name, str) or name not in CALIBRATIONS:
        raise RecipeError(
            f"{recipe.where(*path)}: there is no calibration '{name}'", nearest(str(name), [*CALIBRATIONS, "none"])
        )
    return complete_calibration(CALIBRATIONS[name], given, experts, lambda key: recipe.where(*path, key))


def complete_calibration(
    calibration: Calibration, given: Mapping[str, Any], experts: int, where: Callable[[str], str]
) -> dict[str, Any]:
    """A calibration's name and every parameter, ``alpha`` resolved to ``1/K``. Raises RecipeError.

    ``where``: how messages say where a key stands.
    """
    for key in given:
        if key != "method" and calibration.parameter(key) is None:
            known = [parameter.name for parameter in calibration.parameters]
            raise RecipeError(f"{where(key)}: {calibration.name} takes no parameter '{key}'", nearest(key, known))
    complete: dict[str, Any] = {"method": calibration.name}
    for parameter in calibration.parameters:
        name = parameter.name
        value = given.get(name, parameter.default)
        complete[name] = None if value is None else parameter.check(value, f"{where(name)}: {calibration.name}")
    if complete.get("alpha") is None:
        complete["alpha"] = 1 / experts
    return complete
