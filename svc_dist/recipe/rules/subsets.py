"""The models that take part in a merge: all of a recipe, or those that a rule names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from svc_dist.errors import RecipeError
from svc_dist.methods.method import Method
from svc_dist.recipe.locations import RecipeModel, model_number
from svc_dist.recipe.origin import Origin
from svc_dist.recipe.rules.keys import RuleEntry

#: The kinds of methods that take one model alone.
ALONE = ("none", "listed", "model")


@dataclass(frozen=True)
class Subset:
    """The numbers of the base and of the experts of one merge.

    ``listed``: the base takes part like an expert, in methods that let it; ``named``: the recipe or the rule names a
    base. ``given``: the parameters that the rule gives to models, by number. ``everyone``: all models of the recipe.
    """

    base: int
    experts: tuple[int, ...]
    listed: bool
    named: bool
    given: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)
    everyone: bool = False

    @property
    def models(self) -> tuple[int, ...] | None:
        """The base, then the experts; None for all models of the recipe."""
        return None if self.everyone else (self.base, *self.experts)


def all_models(models: Sequence[RecipeModel], method: Method, named: bool) -> Subset:
    """All models of a recipe. ``named``: it names a base."""
    experts = tuple(range(1, len(models)))
    if method.base in ALONE and not experts:
        return Subset(0, (0,), False, named)
    return Subset(0, experts, models[0].position is not None, named, everyone=True)


def named_models(
    rule: RuleEntry, number: int, models: Sequence[RecipeModel], method: Method, named: bool, origin: Origin
) -> Subset | None:
    """The models that rule ``number`` names; None where it names none. ``named``: the recipe names a base.

    Raises RecipeError with the rule's line.
    """
    where = ("rules", number)
    base = 0 if named else None
    if rule.base_model is not None:
        base = model_number(rule.base_model, models, origin.at(*where, "base_model"))
    if rule.models is None:
        return None if rule.base_model is None else _with_base(base, models, where, origin)
    given: dict[int, Mapping[str, Any]] = {}
    for position, entry in enumerate(rule.models):
        at = origin.at(*where, "models", position)
        one = model_number(entry.model, models, at)
        if one in given:
            raise RecipeError(f"{at}: {models[one].location} is named twice", code="model-listed-twice")
        given[one] = entry.parameters
    listed = tuple(given)
    if method.base == "none":
        if len(listed) != 1:
            raise RecipeError(
                f"{origin.at(*where, 'models')}: {method.name} takes exactly one model", code="number-of-experts"
            )
        return Subset(listed[0], listed, False, base is not None, given)
    if base is None or (base not in listed and method.base in ("listed", "model")):
        if method.base == "origin":
            raise RecipeError(
                f"{origin.at(*where)}: {method.name} needs a base",
                "add base_model to the rule or to the recipe",
                code="base-missing",
            )
        base, named = listed[0], False
    experts = tuple(one for one in listed if one != base)
    if not experts and method.base in ALONE:
        return Subset(base, (base,), False, named, given)
    if not experts:
        raise RecipeError(
            f"{origin.at(*where, 'models')}: no expert besides the base {models[base].location}", code="no-expert"
        )
    return Subset(base, experts, base in given, base is not None and named, given)


def takes_the_rest(rule: RuleEntry) -> bool:
    """Whether a rule names the models that are merged into every tensor that no rule before it decides about."""
    return rule.models is not None and rule.takes_all


def _with_base(base: int | None, models: Sequence[RecipeModel], where: tuple[str, int], origin: Origin) -> Subset:
    """All models of the recipe, over another base."""
    assert base is not None
    listed = [number for number, model in enumerate(models) if model.position is not None]
    experts = tuple(number for number in listed if number != base)
    if not experts:
        raise RecipeError(
            f"{origin.at(*where, 'base_model')}: no expert besides the base {models[base].location}", code="no-expert"
        )
    return Subset(base, experts, base in listed, True)
