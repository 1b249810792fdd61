"""How PEFT takes a tensor: as the weight of a module, as an embedding, or as a parameter; and which way round."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from svc_dist.checkpoint.adapters.adapter import Expert
from svc_dist.checkpoint.adapters.factors import AdapterFactors
from svc_dist.checkpoint.adapters.tensors import module_of
from svc_dist.checkpoint.checkpoint import Checkpoint
from svc_dist.checkpoint.fused_experts import is_single_expert
from svc_dist.plan.adapters.factor import PairKind
from svc_dist.plan.tensors.dispositions import Decision
from svc_dist.plan.tensors.matrices import Layouts
from svc_dist.recipe.resolved import ResolvedRecipe
from svc_dist.tensor_names import EMBEDDING_PATTERNS, is_convolution, matches

#: Tensors with a row for each of their inputs: modules of torch's class ``Embedding``, by name.
_EMBEDDINGS = (
    "*embed_tokens*.weight", "*wte.weight", "*wpe.weight", "*embeddings.weight", "*embedding.weight",
    "*embed_in.weight", "shared.weight", "*.shared.weight", "*embed_positions.weight",
    "*relative_attention_bias.weight",
)  # fmt: skip
#: Matrices that mixtures hold as parameters, in modules that PEFT does not wrap: the routers.
_PARAMETERS = re.compile(r"(?:.*\.)?(?:mlp|moe|block_sparse_moe|feed_forward|ffn)\.(?:gate|router)\.weight")


@dataclass(frozen=True)
class PairLayout:
    """How a tensor becomes a pair: what PEFT makes of it, and its matrices ``(count, rows, columns)`` as stored."""

    kind: PairKind
    module: str
    matrices: tuple[int, int, int]
    swapped: bool


class PairLayouts:
    """How the tensors of a base become pairs of factors."""

    def __init__(self, recipe: ResolvedRecipe, base: Checkpoint, experts: Sequence[Expert]) -> None:
        self.recipe, self.base, self.experts = recipe, base, experts
        self.layouts = Layouts(base, recipe)

    def of(self, decision: Decision, touching: Sequence[int]) -> PairLayout | str | None:
        """How a tensor becomes a pair; None for one that is no matrix, which is saved whole; or why it cannot be one.

        ``touching``: the numbers of the experts that change it.
        """
        name, shape = decision.name, self.base.tensors[decision.name].shape
        added = [one for number in touching for one in self.experts[number].factors.get(name, ())]
        if decision.batch is not None:
            count, rows, columns = decision.batch
            matrices = (count, columns, rows) if decision.turned else (count, rows, columns)
        elif len(shape) == 2 and (added or (name.endswith(".weight") and self._is_table(name))):
            matrices = (1, shape[0], shape[1])
        elif len(shape) > 2 and added:
            experts = len(shape) == 3 and not is_convolution(name)
            outer, inner = shape[0], math.prod(shape[1:])
            matrices = (outer, shape[1], shape[2]) if experts else (1, outer, inner)
        else:
            return None
        kind = self._kind(name, matrices[0], added, touching)
        module = name.rpartition(".")[0]
        own = {module_of(one.b.name) for one in added if one.lane == (0, 1)}
        if kind != "parameter" and len(own) == 1 and not is_single_expert(name):
            module = own.pop()
        swapped = self._swapped(decision, kind, added)
        return swapped if isinstance(swapped, str) else PairLayout(kind, module, matrices, swapped)

    def _is_table(self, name: str) -> bool:
        return matches(name, (*EMBEDDING_PATTERNS, *self.recipe.embedding_patterns))

    def _kind(self, name: str, count: int, added: Sequence[AdapterFactors], touching: Sequence[int]) -> PairKind:
        if added and "lora_embedding_" in added[0].a.name:
            return "embedding"
        adapters = [self.experts[number].adapter for number in touching]
        targeted = any(one is not None and one.config.targets(name) for one in adapters)
        if targeted or count > 1 or not name.endswith(".weight"):
            return "parameter"
        if added:
            return "module"
        if _PARAMETERS.fullmatch(name) is not None:
            return "parameter"
        return "embedding" if matches(name, _EMBEDDINGS) else "module"

    def _swapped(self, decision: Decision, kind: PairKind, added: Sequence[AdapterFactors]) -> bool | str:
        """Whether ``lora_A`` acts on the rows of the stored matrix, or why that is not known."""
        if added:
            sides = {one.transposed for one in added}
            return "the adapters take it in both ways round" if len(sides) > 1 else sides.pop()
        if kind == "embedding":
            return True
        stated = None if decision.rule is None else self.recipe.rules[decision.rule].stored
        stored = stated or self.layouts.stored(self.base.tensors[decision.name])
        if stored is None:
            return "nothing says which way round it is stored: a rule does (stored: in_out, or stored: out_in)"
        return stored == "in_out"
