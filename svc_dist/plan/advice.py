"""The plan's warnings: keys without effect, choices that measurements advise against, files that are not copied."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence

from svc_dist.errors import Warned, printable, warned
from svc_dist.methods.calibration.chain import steps
from svc_dist.methods.registry import METHODS
from svc_dist.plan.files.multi_token import multi_token_warnings
from svc_dist.plan.files.sidecars import LeftOut
from svc_dist.plan.inputs import PlannedModel
from svc_dist.plan.quantised import experts
from svc_dist.plan.tensor import PlannedTensor
from svc_dist.plan.tensors.dispositions import Decision, Disposition
from svc_dist.plan.tensors.patterns import first_matches
from svc_dist.recipe.choices import MergeChoice
from svc_dist.recipe.mergekit.filters import unmatched
from svc_dist.recipe.presets import UNKNOWN_MODULES
from svc_dist.recipe.resolved import ResolvedRecipe
from svc_dist.sizes import counted
from svc_dist.tensor_names import pattern_of

_SHOWN = 8  # modules in a message
_MODULE = re.compile(r"(?:(?:model|thinker)\.)*[^.]*")
_HARMLESS = 0.25  # alpha: 1/K of four experts did no harm in measurements


def _calibration_advice(recipe: ResolvedRecipe, decisions: Sequence[Decision]) -> Iterator[Warned]:
    """What measurements say against a calibration on a method with default alpha and ``lambda``."""
    calibrated = {
        decision.disposition.method
        for decision in decisions
        if any(one.get("alpha", 1.0) < _HARMLESS for one in steps(decision.disposition.calibration))
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
            yield warned("alpha-advice", f"{where}: svc without alpha on {method}: {advice}")


def _unknown_modules(recipe: ResolvedRecipe, decisions: Sequence[Decision]) -> Iterator[Warned]:
    """The modules that a preset takes for no part of the language model, because it does not know their names."""
    for index, rule in enumerate(recipe.rules):
        if rule.kind or {"match": tuple(rule.match), "keep": rule.keep, "optional": rule.optional} != UNKNOWN_MODULES:
            continue
        names = [
            one.name for one in decisions if one.disposition.reason.endswith(f" by {recipe.origin.key('rules', index)}")
        ]
        modules = Counter(_MODULE.match(name).group() for name in names)  # type: ignore[union-attr]
        if modules:
            listed = [f"{printable(module)} ({counted(number, 'tensor')})" for module, number in modules.items()]
            more = f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
            first = next(iter(modules))
            example = pattern_of(first) + ("" if first in names else ".*")
            yield warned(
                "modules-unknown",
                f"preset llm-backbone-only does not know these modules and keeps them unmerged: "
                f"{', '.join(listed[:_SHOWN])}{more}; to merge what belongs to the language model, add a rule like "
                f"{{match: {json.dumps(example)}, merge_method: {recipe.results[0].default.method}}}",
            )


def warnings(
    recipe: ResolvedRecipe,
    decisions: Sequence[Decision],
    left_out: Sequence[LeftOut],
    models: Sequence[PlannedModel],
    tensors: Sequence[PlannedTensor],
    dispositions: Sequence[Sequence[Disposition]],
) -> Iterator[Warned]:
    """``dispositions``: by number, in all results."""
    names = [decision.name for decision in decisions]
    _, used = first_matches(names, recipe.rules)
    for index, rule in enumerate(recipe.rules):
        for number, pattern in enumerate(rule.match if len(rule.match) > 1 and not rule.optional else ()):
            if (index, number) not in used:
                yield warned(
                    "pattern-matches-nothing",
                    f"{recipe.origin.at('rules', index, 'match')}: the pattern {pattern!r} matches no tensor",
                )
    calibrated = any(decision.disposition.calibration for decision in decisions)
    if recipe.results[0].default.calibration is not None and not calibrated:
        yield warned("calibrates-nothing", f"{recipe.origin.at('calibrate')}: calibration applies to no tensor")
    yield from _calibration_advice(recipe, decisions)
    yield from experts.warnings(recipe, models, tensors, dispositions)
    yield from _unknown_modules(recipe, decisions)
    yield from multi_token_warnings(decisions)
    yield from recipe.warnings
    yield from unmatched(recipe.filters, names)
    for file in left_out:
        if file.needed:
            yield warned("file-not-copied", f"{file.location}/{file.name} is not copied: {file.reason}")
