"""What a recipe says without effect, or against what is known: the plan's warnings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from svc_dist.methods.registry import METHODS
from svc_dist.plan.dispositions import Decision
from svc_dist.recipe import mergekit as dialect
from svc_dist.recipe.schema import Recipe
from svc_dist.tensor_names import matches

_HARMLESS = 0.25  # alpha: 1/K of four experts was seen to do no harm


def _calibration_advice(recipe: Recipe, decisions: Sequence[Decision]) -> Iterator[str]:
    """What is known against a calibration on a method, where a recipe leaves alpha and ``lambda`` to the defaults."""
    calibrated = {
        decision.disposition.method
        for decision in decisions
        if (decision.disposition.calibration or {}).get("alpha", 1.0) < _HARMLESS
        and (decision.disposition.parameters or {}).get("lambda", 1.0) == 1.0
    }
    asked: dict[str, str] = {}
    if recipe.calibrate is not None and "alpha" not in recipe.calibrate:
        asked[recipe.merge_method] = recipe.where("calibrate")
    for index, rule in enumerate(recipe.rules):
        given = rule.calibrate if rule.calibrate is not None else recipe.calibrate
        if rule.keep is None and given is not None and "alpha" not in given:
            asked.setdefault(rule.merge_method or recipe.merge_method, recipe.where("rules", index))
    for method, where in asked.items():
        if method in calibrated and (advice := METHODS[method].calibration_advice) is not None:
            yield f"{where}: svc without alpha on {method}: {advice}"


def _warnings(recipe: Recipe, decisions: Sequence[Decision]) -> list[str]:
    found = []
    for index, rule in enumerate(recipe.rules):
        if rule.optional:
            continue
        for pattern in rule.match:
            if len(rule.match) > 1 and not any(matches(decision.name, [pattern]) for decision in decisions):
                found.append(f"{recipe.where('rules', index, 'match')}: the pattern {pattern!r} matches no tensor")
    calibrated = any(decision.disposition.calibration for decision in decisions)
    if recipe.calibrate is not None and recipe.calibrate.get("method") != "none" and not calibrated:
        found.append(f"{recipe.where('calibrate')}: no tensor is calibrated: none is a matrix that a rule leaves to it")
    found.extend(_calibration_advice(recipe, decisions))
    if "fallback" in recipe.model_fields_set and METHODS[recipe.merge_method].family == "elementwise":
        found.append(f"{recipe.where('fallback')}: has no effect: {recipe.merge_method} takes every tensor")
    return [*found, *dialect.warnings(recipe, [decision.name for decision in decisions])]
