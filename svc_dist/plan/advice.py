"""The plan's warnings: keys without effect, and choices that measurements advise against."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from svc_dist.methods.registry import METHODS
from svc_dist.plan.dispositions import Decision
from svc_dist.recipe.choices import MergeChoice
from svc_dist.recipe.resolved import ResolvedRecipe
from svc_dist.tensor_names import matches

_HARMLESS = 0.25  # alpha: 1/K of four experts was seen to do no harm


def _calibration_advice(recipe: ResolvedRecipe, decisions: Sequence[Decision]) -> Iterator[str]:
    """What is known against a calibration on a method, where a recipe leaves alpha and ``lambda`` to the defaults."""
    calibrated = {
        decision.disposition.method
        for decision in decisions
        if (decision.disposition.calibration or {}).get("alpha", 1.0) < _HARMLESS
        and (decision.disposition.parameters or {}).get("lambda", 1.0) == 1.0
    }
    choices = recipe.results[0]
    asked: dict[str, str] = {}
    if choices.default.default_alpha:
        asked[choices.default.method] = recipe.origin.at("calibrate")
    for index, choice in enumerate(choices.rules):
        if isinstance(choice, MergeChoice) and choice.default_alpha:
            asked.setdefault(choice.method, recipe.origin.at("rules", index))
    for method, where in asked.items():
        if method in calibrated and (advice := METHODS[method].calibration_advice) is not None:
            yield f"{where}: svc without alpha on {method}: {advice}"


def _warnings(recipe: ResolvedRecipe, decisions: Sequence[Decision]) -> list[str]:
    names = [decision.name for decision in decisions]
    warnings = []
    for index, rule in enumerate(recipe.rules):
        for pattern in rule.match if len(rule.match) > 1 and not rule.optional else ():
            if not any(matches(name, [pattern]) for name in names):
                where = recipe.origin.at("rules", index, "match")
                warnings.append(f"{where}: the pattern {pattern!r} matches no tensor")
    calibrated = any(decision.disposition.calibration for decision in decisions)
    if recipe.results[0].default.calibration is not None and not calibrated:
        warnings.append(f"{recipe.origin.at('calibrate')}: calibration applies to no tensor")
    warnings += [*_calibration_advice(recipe, decisions), *recipe.warnings]
    for where, part in recipe.filters:
        if not any(part in name for name in names):
            warnings.append(f"{where}: no tensor's name contains the filter {part!r}")
    return warnings
