"""A commented recipe for models: proposed, planned, and written with what planning asks for."""

from __future__ import annotations

import json
import os
import re
import textwrap
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from svc_dist.checks.proposals.advice import Advice, Findings, advise
from svc_dist.checks.proposals.experts import BACKBONE, Experts, look
from svc_dist.checks.proposals.planning import planned
from svc_dist.errors import PlanError, RecipeError, SvcDistError, warning_code
from svc_dist.plan.hub_models import located
from svc_dist.plan.model import Plan
from svc_dist.recipe.load import parse_recipe
from svc_dist.recipe.resolved import ResolvedRecipe
from svc_dist.recipe.writing.json_schema import modeline
from svc_dist.recipe.writing.repairs import with_comment
from svc_dist.recipe.yaml_lines import read_yaml
from svc_dist.storage.access import DEFAULT_ACCESS, Access

Inspect = Callable[[ResolvedRecipe], Findings]
_PLAIN = re.compile(r"[\w./@+~-]+(?::[\w./@+~-]+)*")
_KEY = re.compile(r"set `([a-z_]+: [^`]+)`")


@dataclass(frozen=True)
class Key:
    """A key that the recipe needs beside the method, and why."""

    line: str
    why: str


_UNTIE = Key(
    "untie: true",
    "some models have an output head of their own, in others it is the embedding: all get one (docs/tied.md)",
)
_BACKBONE = Key(
    f"preset: {BACKBONE}",
    "merges the language model alone: towers of other modalities are kept; remove the line to merge them too "
    "(docs/multimodal.md)",
)
_BASE = Key(
    "vocab: base",
    "experts have other tokens: merges the rows of the base's tokens, and leaves out those that only experts have; "
    "`vocab: union` keeps the tokens of all (docs/vocabulary.md)",
)
_COMMON = Key(
    "vocab: common",
    "the models have different tokens: merges the rows before the first token that differs; the others are the base's "
    "(docs/vocabulary.md)",
)
_UNION = Key(
    "tokenizer_source: union",
    "the models have different tokens: the result has the tokens of all (docs/vocabulary.md)",
)

#: What may settle a refusal, by its code. The first that lets planning continue is written.
_REMEDIES = {
    "tied-head-differs": (_UNTIE,),
    "tensors-differ": (_BASE, _COMMON, _BACKBONE),
    "vocab-differs": (_BASE, _COMMON, _UNION),
}


@dataclass(frozen=True)
class Proposal:
    """A recipe's text, and what a person should know about it, a line each."""

    text: str
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Draft:
    """What a recipe is made of. ``warnings``: of its plan."""

    base: str
    models: Sequence[str]
    experts: Experts
    advice: Advice
    keys: tuple[Key, ...] = ()
    warnings: tuple[str, ...] = ()

    def text(self) -> str:
        advice, count = self.advice, len(self.models)
        experts = f"{count} experts" if count > 1 else "one expert"
        about = f"A merge of {experts} into {self.base}, proposed by `svc-dist recipe new`. Read the comments, plan it "
        lines = [modeline(), *_comment(f"{about}with `svc-dist plan`, and change what you know better.")]
        lines += ["", f"base_model: {_scalar(self.base)}   # {self.experts.dtype}", "", "models:"]
        for model, kind in zip(self.models, self.experts.kinds, strict=True):
            lines.append(f"  - model: {_scalar(model)}   # {kind}")
            if advice.weight is not None:
                lines.append(f"    parameters: {{weight: {advice.weight}}}")
        lines += ["", *_comment(" ".join(advice.why)), *(line for note in advice.notes for line in _comment(note))]
        lines += [f"merge_method: {advice.method}"]
        lines += [f"parameters: {{{', '.join(f'{key}: {value}' for key, value in advice.parameters.items())}}}"]
        if advice.calibrate is not None:
            lines.append(f"calibrate: {{method: {advice.calibrate}}}   # alpha, the least share of an expert: 1/K")
        lines += ["", "# To try next, and to compare on data of your own:"]
        lines += [line for text in advice.next for line in _comment(f"- {text}", "  ")]
        dtype = f"Without `dtype`, each tensor keeps its dtype in the base (here mostly {self.experts.dtype})."
        lines += ["", *_comment(dtype)]
        for key in self.keys:
            lines += ["", *_comment(key.why), key.line]
        for warning in self.warnings:
            lines += ["", *_comment(f"warning: {warning}")]
        return "\n".join(lines) + "\n"


def propose(
    base: str,
    models: Sequence[str],
    folder: Path,
    access: Access = DEFAULT_ACCESS,
    inspect: Inspect | None = None,
) -> Proposal:
    """A recipe in ``folder`` for experts over a base, which are named as on a command line here.

    ``inspect``: what shows how much the sum of a recipe's deltas over-counts. Raises the errors of planning that no
    rule can settle: no such model, damaged files, quantised tensors.
    """
    base, models = _relative(base, folder), [_relative(model, folder) for model in models]
    plain = {"base_model": base, "models": [{"model": model} for model in models], "merge_method": "linear"}
    experts = look(parse_recipe(json.dumps(plain), "the models", folder, access))
    draft = _Draft(base, models, experts, advise(len(models), experts.adapters))
    if experts.towers:
        draft = replace(draft, keys=(_BACKBONE,))
    draft, outcome = _settled(draft, folder, access)
    if isinstance(outcome, Plan) and inspect is not None and len(models) > 1:
        findings = inspect(located(parse_recipe(draft.text(), "recipe", folder, access)))
        draft = replace(draft, advice=advise(len(models), experts.adapters, findings))
        outcome = _plan(draft, folder, access)
    if isinstance(outcome, SvcDistError):
        if outcome.code == "quantised" or not isinstance(outcome, PlanError | RecipeError):
            raise outcome
        text = with_comment(draft.text(), "recipe", outcome)
        return Proposal(
            text, (f"planning stops, and a comment says what to decide: {outcome.message.splitlines()[0]}",)
        )
    draft = _with_warnings(draft, outcome, folder, access)
    return Proposal(draft.text(), (*(f"{key.line}: {key.why}" for key in draft.keys), *draft.warnings))


def _settled(draft: _Draft, folder: Path, access: Access) -> tuple[_Draft, Plan | SvcDistError]:
    """The draft with the keys that let planning continue as far as it does."""
    outcome = _plan(draft, folder, access)
    while isinstance(outcome, SvcDistError):
        for key in _REMEDIES.get(outcome.code or "", ()):
            if key in draft.keys:
                continue
            more = replace(draft, keys=(*draft.keys, key))
            after = _plan(more, folder, access)
            if isinstance(after, Plan) or after.code != outcome.code:
                break
        else:
            return draft, outcome
        draft, outcome = more, after
    return draft, outcome


def _with_warnings(draft: _Draft, plan: Plan, folder: Path, access: Access) -> _Draft:
    """The draft with keys that warnings of its plan ask for, and the others as comments."""
    for warning in plan.warnings:
        asked = _KEY.search(warning)
        if asked is not None and warning_code(warning) in ("chat-template-left-out", "tokenizer-left-out"):
            more = replace(draft, keys=(*draft.keys, Key(asked[1], warning.partition(": set")[0])))
            after = _plan(more, folder, access)
            if isinstance(after, Plan):
                draft, plan = more, after
    return replace(draft, warnings=tuple(plan.warnings))


def _plan(draft: _Draft, folder: Path, access: Access) -> Plan | SvcDistError:
    return planned(draft.text(), "recipe", folder, access)


def _relative(model: str, folder: Path) -> str:
    """A model as a recipe in ``folder`` names it. Each half of ``model+adapter`` may be a folder here."""
    if "+" in model and not Path(model).exists():
        return "+".join(_relative(part, folder) for part in model.split("+"))
    path = Path(model).expanduser()
    if "://" in model or path.is_absolute() or not path.exists():
        return model
    return os.path.relpath(path, folder)


def _scalar(text: str) -> str:
    """A text as YAML: in quotes where it would not be read as one, such as a folder called 500."""
    with suppress(RecipeError):
        if _PLAIN.fullmatch(text) and read_yaml(text, "")[0] == text:
            return text
    return json.dumps(text, ensure_ascii=False)


def _comment(text: str, indent: str = "") -> list[str]:
    return textwrap.wrap(
        text, 116, initial_indent="# ", subsequent_indent=f"# {indent}", break_on_hyphens=False, break_long_words=False
    )
