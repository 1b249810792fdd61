"""What a merge writes as an adapter: a pair of factors for each matrix that it changes, other changed tensors whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from msgspec import structs

from svc_dist.checkpoint.adapters.adapter import Expert
from svc_dist.checkpoint.checkpoint import Checkpoint
from svc_dist.checkpoint.dtype import FLOAT_DTYPES, RECIPE_DTYPES
from svc_dist.checkpoint.fused_experts import is_single_expert
from svc_dist.errors import PlanError, printable
from svc_dist.methods.registry import METHODS
from svc_dist.plan.adapters.factor import Factor, Side
from svc_dist.plan.adapters.layouts import PairLayouts
from svc_dist.plan.adapters.peft import PairName, Parts, adapter_config
from svc_dist.plan.adapters.ranks import ExactRank, changes, exact_methods, exact_rank
from svc_dist.plan.tensors.alias_groups import alias_groups, with_absent_heads
from svc_dist.plan.tensors.dispositions import Decision, Disposition
from svc_dist.recipe.resolved import ResolvedRecipe
from svc_dist.sizes import counted

#: Names of embeddings whose output head PEFT changes with them (``ensure_weight_tying``).
_TIED_BY_PEFT = ("embed_tokens.weight", "lm_head.weight")


@dataclass(frozen=True)
class AdapterDecisions:
    """The decisions about every tensor of an adapter's file, of each result, and its ``adapter_config.json``."""

    by_result: list[list[Decision]]
    config: dict[str, Any]


def as_adapter(
    recipe: ResolvedRecipe, by_result: Sequence[Sequence[Decision]], base: Checkpoint, experts: Sequence[Expert]
) -> AdapterDecisions:
    """The tensors of an adapter in place of those of a model.

    ``by_result``: the decisions about the base's tensors. Raises PlanError listing tensors that an adapter cannot hold,
    with what to do.
    """
    every = {decided[0].name: decided for decided in zip(*by_result, strict=True)}
    adapting = _Adapting(recipe, base, experts)
    for decided in every.values():
        adapting.add(decided)
    adapting.refuse(every)
    written = adapting.written(every)
    config = adapter_config(adapting.parts, base, experts)
    return AdapterDecisions([list(of_result) for of_result in zip(*written, strict=True)], config)


class _Adapting:
    """The tensors of an adapter, decided one by one."""

    def __init__(self, recipe: ResolvedRecipe, base: Checkpoint, experts: Sequence[Expert]) -> None:
        self.recipe, self.base, self.experts = recipe, base, experts
        self.layouts = PairLayouts(recipe, base, experts)
        self.parts = Parts()
        self.pairs: dict[str, tuple[PairName, Factor]] = {}  # the factor of side a
        self.wholes: set[str] = set()
        self.saved_aliases: set[str] = set()  # other names of these, which PEFT loads as modules of their own
        self.aliases: dict[str, list[str]] = {}  # the other names of tensors
        self.left: dict[str, str] = {}  # names that are not written, and why
        self.full: list[tuple[str, str]] = []
        self.impossible: list[tuple[str, str]] = []

    def add(self, decided: Sequence[Decision]) -> None:
        """Decide about one tensor."""
        first = decided[0]
        name, spec, kept = first.name, first.spec, first.disposition
        if spec is None:
            if first.lead is not None:
                self.aliases.setdefault(first.lead, []).append(name)
            return
        if first.lead is not None:
            self.left[name] = f"it is {printable(first.lead)}, to which it is tied"
            self.aliases.setdefault(first.lead, []).append(name)
            return
        touching = [number for number, expert in enumerate(self.experts) if changes(expert, name)]
        if kept.kind == "copied":
            touching = [number for number in touching if number == kept.source - 1]
        if not touching and name in self.base.tensors and not self._acts_on_base(decided):
            self.left[name] = "no expert changes it" if kept.kind == "merged" else kept.reason
        elif not spec.numel:
            self.left[name] = "it has no entries"
        elif name not in self.base.tensors:
            self.impossible.append((name, "the base does not have it"))
        elif first.rows is not None or spec.shape != self.base.tensors[name].shape or spec.dtype not in FLOAT_DTYPES:
            self.impossible.append((name, "it has another shape or storage than in the base"))
        else:
            self._write(decided, touching)

    def refuse(self, every: Mapping[str, Sequence[Decision]]) -> None:
        """Raise PlanError for tensors that an adapter cannot hold. ``every``: the decisions by name."""
        where = self.recipe.origin.at("output")
        self._add_absent_heads(every)
        tied = [name for name in self.aliases if name in self.pairs]
        if others := sorted(name for name in tied if not name.endswith(_TIED_BY_PEFT)):
            raise PlanError(
                f"{where}: {others[0]!r} is the output head too, and PEFT ties only embeddings that are called "
                "embed_tokens: the adapter would leave the head as it is",
                "add `untie: true`, which gives the head a pair of its own",
                code="adapter-cannot-hold",
            )
        if self.impossible:
            name, why = self.impossible[0]
            raise PlanError(
                f"{where}: an adapter cannot hold {counted(len(self.impossible), 'tensor')} like {name!r}: {why}",
                f"leave them out by a rule: {{match: {_pattern(name)}, keep: base}}, or write a model (output: model)",
                code="adapter-cannot-hold",
            )
        if self.full:
            name, why = self.full[0]
            raise PlanError(
                f"{where}: the delta of {counted(len(self.full), 'tensor')} like {name!r} is not of low rank: {why}",
                "add the key `rank: 32` (or another rank), which keeps the leading directions and reports the error; "
                f"or merge adapters by a method that is exact: {', '.join(exact_methods())}",
                code="adapter-needs-rank",
            )

    def written(self, every: Mapping[str, Sequence[Decision]]) -> list[tuple[Decision, ...]]:
        """The decisions about the tensors of the file, each in all results, and about those that are not written."""
        self._even_experts()
        self.saved_aliases = {alias for name in self.wholes for alias in self.aliases.get(name, ())}
        self._complete_modules(every)
        self.parts.tied = any(name in self.pairs for name in self.aliases)
        written: list[tuple[Decision, ...]] = []
        for name, decided in every.items():
            if name in self.pairs:
                written += [self._factor(decided, *self.pairs[name], side) for side in ("a", "b")]
            elif name in self.wholes:
                written += [
                    tuple(self._whole(one, alias) for one in decided) for alias in (name, *self.aliases.get(name, ()))
                ]
            elif name in self.saved_aliases:
                continue
            else:
                written.append(tuple(self._left_out(one) for one in decided))
        return written

    def _write(self, decided: Sequence[Decision], touching: Sequence[int]) -> None:
        first = decided[0]
        name = first.name
        rule = None if first.rule is None else self.recipe.rules[first.rule].rank
        saved = any(self.experts[number].saved(name) is not None for number in touching)
        layout = None if rule == "full" or (saved and rule is None) else self.layouts.of(first, touching)
        if layout is None:
            self.wholes.add(name)
            return
        if isinstance(layout, str):
            self.impossible.append((name, layout))
            return
        most = rule if isinstance(rule, int) else self.recipe.rank
        _, rows, columns = layout.matrices
        dispositions = [one.disposition for one in decided]
        exact = exact_rank(name, dispositions, (rows, columns), self.experts)
        if isinstance(exact, ExactRank) and (most is None or exact.rank <= most):
            made = (exact.rank, True, exact.blocks)
        elif most is None:
            self.full.append((name, str(exact)))
            return
        else:
            made = (min(most, rows, columns), False, ())
        shape = self.base.tensors[name].shape
        factor = Factor("a", layout.kind, shape, layout.matrices, made[0], layout.swapped, made[1], made[2])
        pair = PairName(layout.kind, layout.module, name.rpartition(".")[2], made[0])
        self.pairs[name] = pair, factor
        self.parts.conv1d |= layout.swapped and layout.kind == "module"

    def _acts_on_base(self, decided: Sequence[Decision]) -> bool:
        """Whether a tensor that no expert changes may change: by weights that do not add up to 1."""
        methods = [
            (METHODS[one.method], one.parameters or {}) for one in (d.disposition for d in decided) if one.method
        ]
        return any(method.zero == "never" and not method.has_factored_form(given) for method, given in methods)

    def _add_absent_heads(self, every: Mapping[str, Sequence[Decision]]) -> None:
        """Add the output heads that no model stores to the other names of their embeddings."""
        shapes = {name: spec.shape for name, spec in self.base.tensors.items()}
        groups = with_absent_heads(alias_groups(shapes), shapes, self.base.config)
        for group in groups:
            if group.head is not None and group.head not in every:
                self.aliases.setdefault(group.names[0], []).append(group.head)

    def _even_experts(self) -> None:
        """Give the pairs of single experts one rank: loaders stack them, and take the configuration's ``r`` for all."""
        single = [name for name in self.pairs if is_single_expert(name)]
        rank = max((self.pairs[name][1].rank for name in single), default=0)
        for name in single:
            pair, factor = self.pairs[name]
            blocks = factor.blocks and (*factor.blocks[:-1], factor.blocks[-1] + rank - factor.rank)
            self.pairs[name] = replace(pair, rank=rank), replace(factor, rank=rank, blocks=blocks)
        self.parts.pairs = [pair for pair, _ in self.pairs.values()]
        self.parts.experts_rank = rank

    def _complete_modules(self, every: Mapping[str, Sequence[Decision]]) -> None:
        """Choose how PEFT loads what is saved whole: a module with all of its tensors, or a single bias."""
        paired = self.parts.by_module
        siblings: dict[str, list[str]] = {}
        for name in self.base.tensors:
            siblings.setdefault(name.rpartition(".")[0], []).append(name)
        for name in sorted(self.wholes | self.saved_aliases):
            module, _, parameter = name.rpartition(".")
            if module not in paired and (parameter == "weight" or f"{module}.weight" in self.wholes):
                if parameter == "weight":
                    self.parts.saved.append(module)
                    own = {one for one in siblings.get(module, ()) if every[one][0].spec is not None}
                    self.wholes |= own - self.saved_aliases
            elif parameter == "bias":
                self.parts.biases = True

    def _factor(self, decided: Sequence[Decision], pair: PairName, factor: Factor, side: Side) -> tuple[Decision, ...]:
        factor = replace(factor, side=side)
        name, dtype = self.parts.factor(pair, side), self._dtype(decided[0], factor)
        of = self.base.tensors[decided[0].name]
        spec = structs.replace(of, name=name, dtype=dtype, shape=factor.stored_shape, parts=())
        what = "exact" if factor.exact else f"the best of rank {factor.rank}"
        if factor.exact and len(parts := [str(one) for one in factor.blocks if one]) > 1:
            what += f": {' + '.join(parts)}"
        return tuple(
            structs.replace(
                one, name=name, spec=spec, dtype=dtype, factor=factor, of=of, lead=None,
                disposition=_because(one.disposition, f"a pair of rank {factor.rank}, {what}"),
            )
            for one in decided
        )  # fmt: skip

    def _dtype(self, decision: Decision, factor: Factor) -> str:
        """The recipe's dtype; else that of the experts' factors where they are stacked, float32 where they are not."""
        rule = None if decision.rule is None else self.recipe.rules[decision.rule].dtype
        if (asked := rule or self.recipe.dtype) is not None:
            return RECIPE_DTYPES[asked]
        used = {
            spec.dtype
            for expert in self.experts
            for one in expert.factors.get(decision.name, ())
            for spec in (one.a, one.b)
        }
        return used.pop() if factor.blocks and len(used) == 1 else "F64" if "F64" in used else "F32"

    def _whole(self, decision: Decision, alias: str) -> Decision:
        """The decision about a tensor that is saved whole, under its own name or another one that it has."""
        name = self.parts.whole(alias)
        of = self.base.tensors[decision.name]
        spec = None if decision.spec is None else structs.replace(decision.spec, name=name)
        reason = _because(decision.disposition, "saved whole")
        return structs.replace(decision, name=name, spec=spec, of=of, disposition=reason)

    def _left_out(self, decision: Decision) -> Decision:
        if decision.spec is None:
            return decision
        return structs.replace(decision, spec=None, disposition=Disposition("left_out", self.left[decision.name]))


def _because(disposition: Disposition, why: str) -> Disposition:
    return replace(disposition, reason=f"{disposition.reason}; {why}")


def _pattern(name: str) -> str:
    return '"*' + name.rpartition(".")[2] + '"' if "." not in name else f'"{name}"'
