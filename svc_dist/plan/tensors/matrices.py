"""Which tensors spectral steps see as matrices, and which way round these are stored: (out, in), or (in, out).

The tensors decide where they can: a bias is as long as the outputs, and of two fused projections one leads back to
where the other begins. Else the architecture decides, which the config names.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from svc_dist.checkpoint.checkpoint import Checkpoint
from svc_dist.checkpoint.header import TensorSpec
from svc_dist.errors import Warned, printable, warned
from svc_dist.methods.calibration.chain import names
from svc_dist.methods.registry import CALIBRATIONS, METHODS
from svc_dist.recipe.choices import MergeChoice
from svc_dist.recipe.resolved import ResolvedRecipe
from svc_dist.recipe.rules.keys import Stored
from svc_dist.sizes import counted
from svc_dist.tensor_names import is_convolution, matches, parse_name

Batch = tuple[int, int, int]

#: Names of parameters that hold one vector a row, or none at all: biases, tables, tokens, queries, states of SSMs.
_VECTORS = re.compile(
    r"(?:.*_)?(?:bias(?:es)?(?:_.*)?|tables?|tokens?|queries|latents|probe)|rel_pos.*|pos_.*|A_logs?|D|query|r_k|"
    r"time_(?:decay|first|faaaa)"
)
#: Modules whose weight is a norm, also where it has a row for each head.
_NORM = re.compile(r"(?:.*_)?(?:[a-z]*norm|ln|layrnorm)(?:_?\d+|_[a-z]+)?", re.IGNORECASE)

#: Weights of transformers' ``Conv1D``, stored (in, out), and the architectures that have it.
_CONV1D = re.compile(r"(?:.*\.)?(?:c_attn|q_attn|c_proj|c_fc)\.weight")
_CONV1D_TYPES = ("gpt2", "openai-gpt", "imagegpt", "decision_transformer", "clvp", "jais")
_CONV1D_CLASSES = ("GPT2", "OpenAIGPT", "ImageGPT", "DecisionTransformer", "Clvp", "JAIS")
#: Names that are (in, out) in every architecture: of Flax, of OpenAI's and open_clip's CLIP, of DBRX, of XLNet.
_ALWAYS_IN_OUT = re.compile(
    r"(?:.*\.)?(?:kernel|visual\.proj|gate_and_up_projs|down_projs|experts\.mlp\.w2|rel_attn\.[qkvr])"
)
#: Weights whose last two dimensions are one side: heads and their size, in XLNet.
_HEADS = re.compile(r"(?:.*\.)?rel_attn\.[qkvro]")
#: Projections of fused experts: from hidden states, and back to them.
_UP = re.compile(
    r"(?P<group>(?:.*\.)?)(?:gate_up_proj|gate_and_up_projs|gate_proj|up_proj|w1|w3|v1|fc1|input_linear)(?:\.weight)?"
)
_DOWN_ENDINGS = (
    "down_proj", "down_projs", "down_proj.weight", "w2", "w2.weight", "fc2.weight", "output_linear.weight",
)  # fmt: skip
_DOWN = re.compile(r"(?P<group>(?:.*\.)?)(?:down_proj|down_projs|w2|fc2|output_linear)(?:\.weight)?")
_FUSED_TYPES = ("gpt_oss", "openai_privacy_filter", "llama4", "aria", "qwen3_vl_moe")
_FUSED_CLASSES = ("GptOss", "OpenAIPrivacyFilter", "Llama4", "Aria", "Qwen3VLMoe")


def matrices(spec: TensorSpec, embedding_patterns: Sequence[str]) -> Batch | None:
    """``(count, m, n)`` when spectral steps see the tensor as matrices, else None: as it is stored.

    A 2-D weight is one matrix; a convolution kernel is one matrix ``(out, -1)``; another 3-D weight is a batch (fused
    experts). Embeddings and heads, by name, are none, nor are vectors, with a side of 1 or by name: biases of fused
    experts, norms with a row for each head, learned queries and positions, ``A_log``.
    """
    shape = spec.shape
    if len(shape) < 2 or spec.numel == 0 or matches(spec.name, embedding_patterns) or _holds_vectors(spec):
        return None
    if len(shape) == 2:
        batch: Batch = (1, *shape)
    elif len(shape) == 3 and not is_convolution(spec.name) and _HEADS.fullmatch(spec.name) is None:
        batch = shape
    else:
        batch = (1, shape[0], spec.numel // shape[0])
    return None if 1 in batch[1:] else batch


def _holds_vectors(spec: TensorSpec) -> bool:
    *modules, last = spec.name.split(".")
    if _VECTORS.fullmatch(last) is not None:
        return True
    if last in ("weight", "gamma", "beta"):
        return len(spec.shape) < 4 and bool(modules) and _NORM.fullmatch(modules[-1]) is not None
    return len(spec.shape) == 3 and spec.shape[0] == 1 and "expert" not in spec.name


class Layouts:
    """Which way round the matrices of a model are stored, and where that matters."""

    def __init__(self, model: Checkpoint, recipe: ResolvedRecipe) -> None:
        tensors = self._tensors = model.tensors
        self._recipe = recipe
        self._tells_sides: dict[tuple[str, int | None], bool] = {}
        self._types = {text for key, text in _texts(model.config or {}) if key == "model_type"}
        self._classes = [text for key, text in _texts(model.config or {}) if key == "architectures"]
        self._fused: dict[str, Stored | None] = {}
        self._conv1d: Stored | None = None
        by_stack: dict[str, set[Stored]] = {}  # what biases say of a stack of layers
        for name, spec in tensors.items():
            if len(spec.shape) == 3:
                self._compare(name, spec)
            elif len(spec.shape) == 2 and name.endswith(".weight") and (said := self._by_bias(spec)) is not None:
                by_stack.setdefault(parse_name(name).stack, set()).add(said)
        self._stacks = {stack: next(iter(said)) for stack, said in by_stack.items() if len(said) == 1}
        if self._is(_CONV1D_TYPES, _CONV1D_CLASSES):
            self._conv1d = "in_out"
        elif self._types or self._classes:
            self._conv1d = "out_in"
        else:
            self._conv1d = self._longer_outputs()

    def turned(self, spec: TensorSpec, method: str, rule: int | None) -> bool | None:
        """Whether matrices are stored (in, out) and their merge by ``method``, under a rule of this number, or its
        calibration in some result tells inputs from outputs; None where it does and nothing tells how they are stored.
        """
        if (method, rule) not in self._tells_sides:
            choices = [each.default if rule is None else each.rules[rule] for each in self._recipe.results]
            merging = [choice for choice in choices if isinstance(choice, MergeChoice)]
            self._tells_sides[method, rule] = METHODS[method].tells_sides or any(
                CALIBRATIONS[name].tells_sides for choice in merging for name in names(choice.calibration)
            )
        if not self._tells_sides[method, rule]:
            return False
        stored = (None if rule is None else self._recipe.rules[rule].stored) or self.stored(spec)
        return None if stored is None else stored == "in_out"

    def stored(self, spec: TensorSpec) -> Stored | None:
        """Which way round a matrix, or a batch of matrices, is stored; None where nothing tells."""
        if (said := self._by_bias(spec)) is not None:
            return said
        if _ALWAYS_IN_OUT.fullmatch(spec.name) is not None:
            return "in_out"
        if len(spec.shape) == 2:
            others = self._stacks.get(parse_name(spec.name).stack) if spec.shape[0] == spec.shape[1] else None
            if _CONV1D.fullmatch(spec.name) is not None:
                return others or self._conv1d
            return others if others is not None and spec.name.endswith(".weight") else "out_in"
        if len(spec.shape) > 3 or is_convolution(spec.name) or _HEADS.fullmatch(spec.name) is not None:
            return "out_in"
        group = _group(spec.name)
        if group is not None and (known := self._fused.get(group)) is not None:
            return known
        if group is not None and self._is(_FUSED_TYPES, _FUSED_CLASSES):
            return "in_out"
        return None if len(set(spec.shape[1:])) > 1 or group is not None else "out_in"

    def _is(self, types: Sequence[str], classes: Sequence[str]) -> bool:
        by_type = any(text == known or text.startswith(f"{known}_") for text in self._types for known in types)
        return by_type or any(text.startswith(tuple(classes)) for text in self._classes)

    def _by_bias(self, spec: TensorSpec) -> Stored | None:
        """What the module's bias says: it is as long as the outputs."""
        rows, columns = spec.shape[-2:]
        if rows == columns or len(spec.shape) > 3:
            return None
        two = len(spec.shape) == 2
        bias = self._tensors.get(f"{spec.name.removesuffix('weight')}bias" if two else f"{spec.name}_bias")
        if bias is None or bias.shape[:-1] != spec.shape[:-2] or bias.shape[-1:] not in ((rows,), (columns,)):
            return None
        return "out_in" if bias.shape[-1] == rows else "in_out"

    def _compare(self, name: str, spec: TensorSpec) -> None:
        """Learn from a fused projection and its counterpart which way round both are."""
        up = _UP.fullmatch(name)
        group = None if up is None else _group(name)
        if up is None or group is None or self._fused.get(group) is not None:
            return
        beside = (self._tensors.get(up["group"] + ending) for ending in _DOWN_ENDINGS)
        down = next((other for other in beside if other is not None), None)
        self._fused[group] = None
        if down is None or len(down.shape) != 3:
            return
        (first, second), (third, fourth) = spec.shape[1:], down.shape[1:]
        turned = first == fourth and second in (third, 2 * third)
        plain = second == third and first in (fourth, 2 * fourth)
        if turned != plain:
            self._fused[group] = "in_out" if turned else "out_in"

    def _longer_outputs(self) -> Stored | None:
        """What the shapes of attention and feed-forward weights of GPT-2's names say where no config does."""
        for name, spec in self._tensors.items():
            if name.endswith((".c_attn.weight", ".c_fc.weight")) and len(spec.shape) == 2:
                rows, columns = spec.shape
                if rows != columns:
                    return "out_in" if rows > columns else "in_out"
        return None


def _group(name: str) -> str | None:
    """The name of the fused experts that a tensor belongs to, the same in all layers; None for other tensors."""
    found = _UP.fullmatch(name) or _DOWN.fullmatch(name)
    return None if found is None else re.sub(r"\d+", "*", found["group"])


def _texts(section: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The model types and architectures of a config and of its sections."""
    for key, value in section.items():
        if key == "model_type" and isinstance(value, str):
            yield key, value
        elif key == "architectures" and isinstance(value, list):
            yield from ((key, text) for text in value if isinstance(text, str))
        elif isinstance(value, Mapping):
            yield from _texts(value)


def unknown_layouts(specs: Sequence[TensorSpec]) -> Iterator[Warned]:
    """A warning about matrices whose merge tells inputs from outputs, where nothing tells how they are stored."""
    if specs:
        yield warned(
            "layout-unknown",
            f"nothing says which way round {counted(len(specs), 'tensor')} like {printable(specs[0].name)} "
            f"{list(specs[0].shape)} are stored: (out, in) is assumed; a rule says so with `stored: in_out` or "
            "`stored: out_in`",
        )
