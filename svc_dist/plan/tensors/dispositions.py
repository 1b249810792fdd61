"""The disposition of each tensor: each name in any input gets one, or the plan is refused with the reason."""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import msgspec
from msgspec import structs

from svc_dist.checkpoint.adapters.adapter import Expert
from svc_dist.checkpoint.checkpoint import Checkpoint
from svc_dist.checkpoint.dtype import FLOAT_DTYPES
from svc_dist.checkpoint.header import TensorSpec
from svc_dist.errors import PlanError, printable
from svc_dist.methods.registry import METHODS
from svc_dist.plan.adapters.factor import Factor
from svc_dist.plan.tensors.matrices import Batch, Layouts, matrices
from svc_dist.plan.tensors.patterns import first_matches, require_matches
from svc_dist.plan.tensors.refusals import QUANTISED, has_more_rows, listed, offer, quantised, refusal, refusal_message
from svc_dist.plan.tensors.rename_offers import rename_offer
from svc_dist.plan.tensors.ties import Ties, require_one_rule
from svc_dist.plan.vocabulary.rows import RowChoices, Rows, vocab_choice
from svc_dist.plan.vocabulary.vocabularies import Vocabularies
from svc_dist.recipe.choices import KeepChoice, MergeChoice, ResultChoices
from svc_dist.recipe.resolved import ResolvedRecipe
from svc_dist.recipe.rules.keys import Vocab
from svc_dist.recipe.rules.kinds import Kind as TensorKind
from svc_dist.recipe.rules.kinds import kinds_of
from svc_dist.tensor_names import depths, natural_key, parse_name

Kind = Literal["merged", "copied", "tied", "left_out"]
#: The reason of the decision about a layer for multi-token prediction that some model lacks, before its name.
LACKS_MTP = "for multi-token prediction, "
FALLBACK = "not a matrix: the fallback"  # the start of the reason where a spectral method cannot merge a tensor
_CARRIED = "the base's: a scale of activations or of their cache, an estimate for a merged model"


@dataclass(frozen=True, slots=True)
class Disposition:
    """``merged`` by a method with complete parameters and maybe a calibration, rows that are not merged from model
    ``source`` (0: the base); ``copied`` from ``source``; ``tied`` to another tensor as in the base, or ``left_out`` as
    in the base: not written. ``models``: the numbers of the models that are merged, the base's first; None for all.
    ``least_difference``: the tensor is merged where some expert's relative difference from the base exceeds this, else
    it is the base's."""

    kind: Kind
    reason: str
    method: str | None = None
    parameters: dict[str, Any] | None = None
    calibration: dict[str, Any] | None = None
    source: int = 0
    models: tuple[int, ...] | None = None
    least_difference: float | None = None

    @property
    def alone(self) -> bool:
        """Whether one model passes through a merge."""
        return self.models is not None and self.models[0] in self.models[1:]


class Decision(msgspec.Struct, frozen=True, gc=False):
    """The disposition of one name. ``spec``: in the model it comes from, None where it is not written; ``batch``:
    ``(count, m, n)`` for matrices ``(out, in)``; ``turned``: whether they are stored ``(in, out)``, None where nothing
    tells and a step depends on it; ``rows``: what becomes of the rows of a merged tensor, None where all are merged by
    number; ``rule``: the number of the rule that decided; ``dtype``: that it is written in; ``codec``: in which codes
    of it are written, None for none; ``lead``: the name of the tensor that this one is, where it is tied to another. In
    an adapter, ``of``: the tensor of the base that it is written for; ``factor``: where it is a factor of what is added
    to that."""

    name: str
    disposition: Disposition
    batch: Batch | None = None
    spec: TensorSpec | None = None
    turned: bool | None = False
    rows: Rows | None = None
    rule: int | None = None
    dtype: str | None = None
    lead: str | None = None
    of: TensorSpec | None = None
    factor: Factor | None = None
    codec: str | None = None


def decide(
    recipe: ResolvedRecipe,
    choices: ResultChoices,
    base: Checkpoint,
    experts: Sequence[Checkpoint],
    vocabularies: Vocabularies | None = None,
    tied: Ties | None = None,
) -> list[Decision]:
    """The decisions for one of the recipe's results about all names, in natural order.

    ``tied``: the other names of the models' tensors, which are decided with these.

    Raises PlanError listing the tensors that need a rule, and that rule; RecipeError for rules and embedding patterns
    that match nothing.
    """
    tied = tied or Ties()
    every = dict.fromkeys(itertools.chain(*(model.tensors for model in (base, *experts)), tied.lead_of))
    names = sorted(every, key=natural_key)
    rule_of, _ = first_matches(names, recipe.rules)
    require_matches(recipe, names, rule_of)
    require_one_rule(recipe, choices, tied, rule_of)
    one = _Deciding(recipe, choices, base, experts, vocabularies, rule_of, depths(names))
    decisions: list[Decision] = []
    refused: list[tuple[str, str]] = []
    for name in names:
        if name not in tied.lead_of:
            decided = one.decide(name)
            if isinstance(decided, str):
                refused.append((name, decided))
            else:
                decisions.append(decided)
    if refused:
        renames, complete = rename_offer(base, experts)
        if renames:
            hint, code = renames, "names-differ"
        elif one.all_quantised(refused):
            hint, code = QUANTISED, "quantised"
        else:
            hint, code = offer([name for name, _ in refused], names, base, experts), "tensors-differ"
        raise PlanError(refusal_message(refused, base, experts, complete), hint, code=code)
    return _with_aliases(decisions, tied, names) if tied.lead_of else decisions


@dataclass
class _Deciding:
    """What the decisions about single names of one result look at."""

    recipe: ResolvedRecipe
    choices: ResultChoices
    base: Checkpoint
    experts: Sequence[Checkpoint]
    vocabularies: Vocabularies | None
    rule_of: Mapping[str, int]
    depths: Mapping[str, float]

    def __post_init__(self) -> None:
        self._models = (self.base, *self.experts)
        self._carried = frozenset(self.base.unneeded) & self.base.tensors.keys()
        self._codes: dict[tuple[int, ...], dict[str, str]] = {}
        self._rows: dict[tuple[int, ...], RowChoices] = {}
        self._layouts = Layouts(self.base, self.recipe)
        # Equal parameters are one object, by which plans tell dispositions apart.
        self._shared: dict[str, dict[str, Any]] = {}

    def all_quantised(self, refused: Sequence[tuple[str, str]]) -> bool:
        """Whether every one of these tensors is quantised, or belongs to such a tensor."""
        codes = self._quantised(tuple(range(len(self._models))))
        return all(name in codes for name, _ in refused)

    def decide(self, name: str) -> Decision | str:
        """The decision about a name, or why a rule must say what to do."""
        if name in self._carried and not self._is_dropped(name):
            return Decision(name, Disposition("copied", _CARRIED), spec=self.base.tensors[name])
        number = self.rule_of.get(name)
        chosen = self.choices.default if number is None else self.choices.rules[number]
        if isinstance(chosen, KeepChoice):
            if chosen.dropped:
                why = f"left out by {self.recipe.origin.key('rules', number or 0)}"
                return Decision(name, Disposition("left_out", why), rule=number)
            copied = _copied(name, chosen, self._models, self.recipe.origin.key("rules", number or 0))
            return copied if isinstance(copied, str) else structs.replace(copied, rule=number)
        models = chosen.models or tuple(range(len(self._models)))
        base, experts = self._models[models[0]], [self._models[one] for one in models[1:]]
        if chosen.models is not None and all(name not in self._models[one].tensors for one in models):
            which = "the recipe" if number is None else self.recipe.origin.key("rules", number)
            return Decision(name, Disposition("left_out", f"in no model that takes part by {which}"), rule=number)
        vocab = vocab_choice(self.recipe, number, base.tensors.get(name), base)
        refused_for = refusal(name, base, experts, vocab, self._quantised(models).get(name))
        if refused_for is not None:
            return self._extra(name, models) or refused_for
        spec = base.tensors[name]
        if spec.dtype not in FLOAT_DTYPES:
            return Decision(name, Disposition("copied", f"{spec.dtype} is not merged", source=models[0]), spec=spec)
        return self._merged(spec, chosen, number, vocab, models)

    def _is_dropped(self, name: str) -> bool:
        number = self.rule_of.get(name)
        chosen = None if number is None else self.choices.rules[number]
        return isinstance(chosen, KeepChoice) and chosen.dropped

    def _extra(self, name: str, models: tuple[int, ...]) -> Decision | None:
        """The decision about a layer for multi-token prediction that some of these models lack: as in the base."""
        lacking = [self._models[one] for one in dict.fromkeys(models) if name not in self._models[one].tensors]
        if not lacking or self._kinds.get(name) != "mtp":
            return None
        spec, reason = self._models[models[0]].tensors.get(name), f"{LACKS_MTP}not in {listed(lacking)}"
        number = self.rule_of.get(name)
        if spec is None:
            return Decision(name, Disposition("left_out", reason), rule=number)
        return Decision(name, Disposition("copied", reason, source=models[0]), spec=spec, rule=number)

    @functools.cached_property
    def _kinds(self) -> dict[str, TensorKind]:
        return kinds_of({name for model in self._models for name in model.tensors})

    def _quantised(self, models: tuple[int, ...]) -> dict[str, str]:
        if models not in self._codes:
            self._codes[models] = quantised([self._models[one] for one in dict.fromkeys(models)])
        return self._codes[models]

    def _merged(
        self, spec: TensorSpec, chosen: MergeChoice, number: int | None, vocab: Vocab, models: tuple[int, ...]
    ) -> Decision | str:
        name, base, experts = spec.name, self._models[models[0]], [self._models[one] for one in models[1:]]
        batch, least = matrices(spec, self.recipe.embedding_patterns), chosen.least_difference
        reason = "the recipe" if number is None else self.recipe.origin.key("rules", number)
        if batch is None and METHODS[chosen.method].family == "spectral":
            chosen, reason = chosen.fallback or self.choices.fallback, FALLBACK
        rows = self._row_choices(models).of(spec, vocab)
        if chosen.models is not None and rows.maps is not None:
            return (
                f"its rows are not the same tokens in {listed([base, *experts])}, and rows are matched by token only "
                "where all models of the recipe take part: give these models one vocabulary first"
            )
        spec = spec if rows.shape == spec.shape else structs.replace(spec, shape=rows.shape)
        reason += rows.reason(vocab, [model.location for model in (base, *experts)])
        if rows.merged is not None or rows.maps is not None:
            count = rows.shape[0] if rows.merged is None else rows.merged
            batch = None if batch is None else (1, count, batch[2]) if batch[0] == 1 else (count, *batch[1:])
        elif vocab != "error" and any(has_more_rows(name, base, expert) for expert in experts):
            reason += f", without the rows beyond the base's (vocab: {vocab})"
        parameters = chosen.at(name, self._depth(name, number))
        if chosen.varies:
            parameters = self._shared.setdefault(json.dumps([chosen.method, parameters]), parameters)
        calibration = chosen.calibration if batch is not None else None
        turned = batch is not None and self._layouts.turned(spec, chosen.method, number)
        if batch is not None and turned:
            batch, reason = (batch[0], batch[2], batch[1]), f"{reason}, turned: stored (in, out)"
        rest = models[rows.rest]
        disposition = Disposition("merged", reason, chosen.method, parameters, calibration, rest, chosen.models, least)
        partly = rows.merged is not None or rows.maps is not None
        return Decision(name, disposition, batch, spec, turned, rows if partly else None, number)

    def _row_choices(self, models: tuple[int, ...]) -> RowChoices:
        """What becomes of rows where these models take part."""
        if models not in self._rows:
            base, *experts = (self._models[one] for one in models)
            vocabularies = self.vocabularies
            if vocabularies is not None and models != tuple(range(len(self._models))):
                every = (Expert(self.base, None, self.base, {}), *vocabularies.experts)
                experts_of = [every[one] for one in models[1:]]
                vocabularies = replace(vocabularies, base=base.location, experts=experts_of, decided={}, _clashes={})
            self._rows[models] = RowChoices(self.recipe, base, experts, vocabularies)
        return self._rows[models]

    def _depth(self, name: str, number: int | None) -> float:
        """The depth of a name's layer, from 0 to 1: among all layers, or among those of its rule."""
        layers = None if number is None else self.recipe.rules[number].layer_range
        layer = None if layers is None else parse_name(name).layer
        if layers is None or layer is None:
            return self.depths.get(name, 0.0)
        count = layers[1] - layers[0]
        return (layer - layers[0]) / (count - 1) if count > 1 else 1.0


def _with_aliases(decisions: Sequence[Decision], tied: Ties, names: Sequence[str]) -> list[Decision]:
    """The decisions about all names: those that are tied to another one have its decision, or are not written."""
    by_name = {decision.name: decision for decision in decisions}
    for name, lead in tied.lead_of.items():
        decision, stored = by_name[lead], name in tied.written
        if stored and decision.spec is not None:
            reason = f"written equal to {printable(lead)}, to which it is tied"
            disposition, spec = replace(decision.disposition, reason=reason), structs.replace(decision.spec, name=name)
            by_name[name] = structs.replace(decision, name=name, disposition=disposition, spec=spec, lead=lead)
        else:
            why = "" if stored else ", as in the base"
            disposition = Disposition("tied", f"not stored{why}: it is {printable(lead)}, to which it is tied")
            by_name[name] = Decision(name, disposition, lead=lead)
    return [by_name[name] for name in names]


def _copied(name: str, keep: KeepChoice, models: Sequence[Checkpoint], rule: str) -> Decision | str:
    """The decision to copy a tensor of one model, or why that is not possible."""
    source = keep.source
    holders = [number for number, model in enumerate(models) if name in model.tensors]
    if source is None:
        if 0 not in holders and len(holders) > 1:
            return (
                f"{rule} keeps it from its owner, but {listed([models[n] for n in holders])} have it and the base does "
                "not: keep it from one by name, or give one of them another prefix by `rename`"
            )
        source = holders[0]
    if source in holders:
        whose = "the base" if source == 0 else models[source].location
        disposition = Disposition("copied", f"kept from {whose} by {rule}", source=source)
        return Decision(name, disposition, spec=models[source].tensors[name])
    if source > 0:
        return (
            f"{rule} keeps it from {models[source].location}, which does not have it "
            f"(it is in {listed([models[n] for n in holders])})"
        )
    return Decision(name, Disposition("left_out", f"not in the base, left out by {rule}"))
