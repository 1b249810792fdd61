"""Tied tensors of a merge: one decision for each alias group, or a head of its own.

Every model is seen with one name for each group, that of the base; the merge writes the base's other names equal to it.
Planning compares samples of stored copies, the merge all of their bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from svc_dist.checkpoint.adapters.adapter import OpenedModel
from svc_dist.checkpoint.adapters.tensors import Pair
from svc_dist.checkpoint.checkpoint import Checkpoint
from svc_dist.checkpoint.dtype import FLOAT_DTYPES
from svc_dist.checkpoint.header import TensorSpec
from svc_dist.errors import PlanError, RecipeError, Warned, printable, warned
from svc_dist.plan.tensors.alias_groups import AliasGroup, alias_groups, scales_tied_logits, ties, with_absent_heads
from svc_dist.plan.tensors.tied_model import TiedModel
from svc_dist.recipe.choices import KeepChoice, ResultChoices
from svc_dist.recipe.resolved import ResolvedRecipe
from svc_dist.tensor_names import matches

_UNTIE = (
    "to give every model a head of its own, and the result a config that says so, add this key to the recipe:\n"
    "  untie: true"
)
_SCALED = (
    "this architecture also scales its logits where the head is tied, so that no config can say both: merge models "
    "that agree about the head (docs/tied.md)"
)


@dataclass
class Ties:
    """What is one tensor in a merge.

    ``lead_of``: for each other name of a tensor the name that it is merged under; ``written``: those of them that the
    base stores, which are written equal. ``copies``: for each lead the stored copies that must equal it, each with the
    number of its input. ``head``: what the result's config must say about the output head, None where it says it.
    """

    lead_of: dict[str, str] = field(default_factory=dict)
    written: set[str] = field(default_factory=set)
    copies: dict[str, list[tuple[int, TensorSpec]]] = field(default_factory=dict)
    head: bool | None = None
    warnings: list[Warned] = field(default_factory=list)


def tie(recipe: ResolvedRecipe, opened: Sequence[OpenedModel]) -> tuple[list[OpenedModel], Ties]:
    """The models (the base first) with one name for each tied tensor, and what is tied.

    Raises PlanError where stored tensors contradict a config or one another, RecipeError for ``untie`` without effect.
    """
    base = opened[0].model
    assert base is not None
    result = Ties()
    shapes = _shapes(opened)
    groups = alias_groups(shapes)
    if recipe.untie or any(one.adapter is not None for one in opened):
        groups = with_absent_heads(groups, shapes, base.config)
    adapters = len(opened)
    models = []
    for number, one in enumerate(opened if groups else ()):
        both = one.model is not None and one.adapter is not None
        models.append(TiedModel(one, number, adapters if both else number, recipe.access))
        adapters += both
    outcomes = [_Group(group, models, base, recipe).tie(result) for group in groups]
    if recipe.untie and "untied" not in outcomes:
        raise RecipeError(
            f"{recipe.origin.at('untie')}: no model has a tied output head",
            "take the key out",
            code="untie-without-ties",
        )
    described = opened[recipe.config_source or 0].model or base
    heads = [(outcome, group.head) for outcome, group in zip(outcomes, groups, strict=True) if group.head is not None]
    result.head = _config_must_say(heads, base, described)
    return [model.reopened() for model in models] or list(opened), result


def require_one_rule(recipe: ResolvedRecipe, choices: ResultChoices, tied: Ties, rule_of: Mapping[str, int]) -> None:
    """Raise RecipeError where a rule decides about a name otherwise than about the tensor that it is tied to.

    ``rule_of``: the rule that decides about each name. A rule may leave out what the base does not store.
    """
    for name, lead in tied.lead_of.items():
        number, other = rule_of.get(name), rule_of.get(lead)
        choice, of_lead = (choices.default if one is None else choices.rules[one] for one in (number, other))
        left_out = name not in tied.written and isinstance(choice, KeepChoice) and choice.source in (0, None)
        if choice == of_lead or left_out:
            continue
        where = recipe.origin.at("rules", number if number is not None else other or 0, "match")
        raise RecipeError(
            f"{where}: {printable(name)} and {printable(lead)} are one tensor (tied in the base), but a rule decides "
            "about one of them alone",
            "match both names in one rule, or neither; `untie: true` makes them two tensors (docs/tied.md)",
            code="rule-splits-tied-tensors",
        )


def _shapes(opened: Sequence[OpenedModel]) -> dict[str, tuple[int, ...]]:
    """The shape of each name in the first model that has it."""
    shapes: dict[str, tuple[int, ...]] = {}
    for one in reversed(opened):
        if one.adapter is not None:
            shapes |= {name: _made(pairs[0]) for name, pairs in one.adapter.pairs.items()}
            shapes |= {name: spec.shape for name, spec in one.adapter.saved.items()}
        if one.model is not None:
            shapes |= {name: spec.shape for name, spec in one.model.tensors.items()}
    return shapes


def _made(pair: Pair) -> tuple[int, ...]:
    """The shape of the weight that a pair of factors is for; of more dimensions than two it is none of ours."""
    rows, columns = (pair.a.shape[1:], pair.b.shape[:1]) if pair.embedding else (pair.b.shape[:1], pair.a.shape[1:])
    return (*rows, *columns)


def _config_must_say(heads: Sequence[tuple[str, str]], base: Checkpoint, described: Checkpoint) -> bool | None:
    """The value of ``tie_word_embeddings`` that contradicts the config that is copied (of ``described``), if any."""
    for outcome, head in heads or [("none", "")]:
        says, of_base = ties(described.config, head), ties(base.config, head)
        if outcome in ("untied", "parted") and says is not False:
            return False
        if outcome == "apart" and says and head in base.tensors:
            return False
        if (outcome == "one" or of_base) and says is False and of_base is not False:
            return True
    return None


class _Group:
    """One alias group in all models."""

    def __init__(
        self, group: AliasGroup, models: Sequence[TiedModel], base: Checkpoint, recipe: ResolvedRecipe
    ) -> None:
        self.group, self.models, self.base, self.untie = group, models, base, recipe.untie
        rules = [rule for rule in recipe.rules if not rule.kind]  # a head is of none
        rule = next((rule for rule in rules if group.head and matches(group.head, rule.match)), None)
        self.drops_heads = rule is not None and rule.keep in ("base", "none")
        self.without_head = rule is not None and rule.keep == "none"
        self.whole = [model for model in models if model.tensors is not None]

    def tie(self, result: Ties) -> Literal["one", "apart", "parted", "untied", "none"]:
        """Join the group's names, or give the head its own tensor. ``none``: the names are no group after all.

        ``parted``: two tensors in the result, but one in the base, whose config does not say so.
        """
        names = self.group.names
        specs = [model.tensors[name] for model in self.whole for name in model.stored(names) if model.tensors]
        if not self.models[0].stored(names) or any(spec.dtype not in FLOAT_DTYPES for spec in specs):
            return "none"
        outcome = self._head(result)
        if outcome == "untied":
            self._untie()
        if outcome == "one" or not self.models[0].differing(self.group.shared):
            self._join(names if outcome == "one" else self.group.shared, result)
        return outcome

    def _head(self, result: Ties) -> Literal["one", "apart", "parted", "untied", "none"]:
        """Whether the output head is the embedding in the result."""
        head, shared, base = self.group.head, self.group.shared, self.models[0]
        if head is None:
            return "none"
        configured = ties(self.base.config, head)
        both = [bool(model.stored(shared) and model.stored([head])) for model in self.whole]
        if any(model.shapes(self.group.names) > 1 for model in self.whole):
            return "apart"
        if configured is False and (all(both) or not (both[0] or self.untie)):
            return "apart"
        if self.untie:
            return "untied"
        if self.drops_heads and not base.stored([head]):
            for model in self.models:
                model.drop(head)
        if base.differing(self.group.names):
            if configured:
                raise self._error(
                    f"the config of {base.location} says that it is {self._embedding} once more "
                    "(tie_word_embeddings), but it stores two different tensors: loaders disagree about which counts"
                )
            return "apart"
        untied = [model.location for model in self.whole[1:] if model.differing(self.group.names)]
        if untied and configured is None and not scales_tied_logits(self.base.config):
            return "apart" if self.without_head else "parted"
        if untied:
            raise self._error(
                f"stored in {', '.join(untied)} as a matrix of its own, but tied in the base {base.location}: there it "
                f"is {self._embedding} once more"
            )
        return self._adapters(head, result)

    def _adapters(self, head: str, result: Ties) -> Literal["one", "untied"]:
        """Whether adapters leave the head tied, as PEFT's merge does."""
        separating = [
            (model, why) for model in self.models if (why := model.separates(self.group.shared, head)) is not None
        ]
        for model, why in separating:
            if scales_tied_logits(self.base.config):
                raise self._error(f"{model.location} {why}")
            result.warnings.append(
                warned(
                    "head-untied",
                    f"{model.location} {why}: the result has a head of its own, {head}, and its config says "
                    "tie_word_embeddings: false (docs/tied.md)",
                )
            )
        if separating:
            return "untied"
        for model in self.models:
            if model.trains_embedding_alone(self.group.shared):
                result.warnings.append(
                    warned(
                        "adapter-changes-head",
                        f"{model.location} is LoRA on {self._embedding}, which is also the output head of the base: "
                        "the head changes with it, as when PEFT merges the adapter, although it did not in training; "
                        "with `untie: true` the result is the model that was trained (docs/tied.md)",
                    )
                )
        return "one"

    def _untie(self) -> None:
        """Give every model both tensors."""
        if scales_tied_logits(self.base.config):
            raise PlanError(f"{self.group.head}: untie has no right result here", _SCALED, code="tied-logits-scaled")
        assert self.group.head is not None
        lead = next(iter(self.models[0].stored(self.group.shared)), self.group.shared[0])
        for model in self.whole:
            model.separate(lead, self.group.shared, self.group.head)

    def _join(self, names: Sequence[str], result: Ties) -> None:
        stored = self.models[0].stored(names)
        others = [name for name in names if name != stored[0]] if stored else []
        if not others:
            return
        lead = stored[0]
        for model in self.models:
            differing = model.differing(names) or model.twice_trained(names)
            if differing:
                raise PlanError(
                    f"{model.location}: {' and '.join(map(printable, differing))} are one tensor in the base "
                    f"{self.base.location}, but two different ones here",
                    "save that model or adapter again with the library that trained it, or leave it out",
                    code="tied-tensors-differ",
                )
            for number, spec in model.join(lead, others):
                result.copies.setdefault(lead, []).append((number, spec))
        result.written.update(stored[1:])
        result.lead_of |= dict.fromkeys(others, lead)

    @property
    def _embedding(self) -> str:
        return printable(next(iter(self.models[0].stored(self.group.shared)), self.group.shared[0]))

    def _error(self, why: str) -> PlanError:
        head = printable(self.group.head or "")
        return PlanError(
            f"{head}: {why}", _SCALED if scales_tied_logits(self.base.config) else _UNTIE, code="tied-head-differs"
        )
