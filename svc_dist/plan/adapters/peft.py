"""How PEFT names the parts of an adapter, and the ``adapter_config.json`` by which it finds the modules for them."""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from svc_dist.checkpoint.adapters.adapter import Expert
from svc_dist.checkpoint.checkpoint import Checkpoint
from svc_dist.plan.adapters.factor import PairKind, Side

PREFIX = "base_model.model."
#: From this version on PEFT asks a mixture's module which way round its experts are, as pairs are written here.
_PEFT_VERSION = "0.19.0"
#: The order in which modules define parameters, in which PEFT wraps them: the first is the innermost.
_DEFINED = ("gate_up_proj", "gate_proj", "up_proj", "down_proj", "input_linear", "output_linear", "w1", "w2", "w3")
_TASKS = {"ForCausalLM": "CAUSAL_LM", "ForSequenceClassification": "SEQ_CLS", "ForTokenClassification": "TOKEN_CLS"}
#: The modules that PEFT's classes for a task save whole, and look for in every adapter of that task.
_HEADS = {
    "SEQ_CLS": ("classifier", "score"),
    "TOKEN_CLS": ("classifier", "score"),
    "QUESTION_ANS": ("qa_outputs",),
}
#: What PEFT takes as the target modules of an adapter without pairs.
_NO_TARGETS = "dummy-target-modules"
_HUB = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class PairName:
    """What a pair is for, as PEFT names it: a ``module``, or with ``parameter`` one of its parameters."""

    kind: PairKind
    module: str
    parameter: str
    rank: int

    @property
    def target(self) -> str:
        return f"{self.module}.{self.parameter}" if self.kind == "parameter" else self.module


@dataclass
class Parts:
    """The parts of an adapter.

    ``saved``: modules that are saved whole; ``biases``: whether single biases are; ``tied``: whether a changed tensor
    has other names; ``conv1d``: whether some are stored ``(in, out)``; ``experts_rank``: of single experts, if any.
    """

    pairs: list[PairName] = field(default_factory=list)
    saved: list[str] = field(default_factory=list)
    biases: bool = False
    tied: bool = False
    experts_rank: int = 0
    conv1d: bool = False

    @functools.cached_property
    def by_module(self) -> dict[str, list[PairName]]:
        """The pairs of each module; asked for when all pairs are there."""
        modules: dict[str, list[PairName]] = {}
        for pair in self.pairs:
            modules.setdefault(pair.module, []).append(pair)
        return modules

    def factor(self, pair: PairName, side: Side) -> str:
        """The name of a factor in the adapter's file."""
        letter = side.upper()
        if pair.kind == "embedding":
            return f"{PREFIX}{pair.module}.lora_embedding_{letter}"
        return f"{PREFIX}{pair.module}{'.base_layer' * self._around(pair)}.lora_{letter}.weight"

    def whole(self, name: str) -> str:
        """The name of a whole tensor in the adapter's file. PEFT keeps it inside of what it wraps around its module."""
        module, _, parameter = name.rpartition(".")
        return f"{PREFIX}{module}{'.base_layer' * self._wrappers(module)}.{parameter}"

    def _wrappers(self, module: str) -> int:
        return len(self.by_module.get(module, ()))

    def _around(self, pair: PairName) -> int:
        """How many other pairs of the same module PEFT wraps around this one."""
        if pair.kind != "parameter":
            return 0
        beside = [one.parameter for one in self.by_module[pair.module]]
        return len(beside) - 1 - sorted(beside, key=_defined).index(pair.parameter)


def _defined(parameter: str) -> tuple[int, str]:
    return (_DEFINED.index(parameter) if parameter in _DEFINED else len(_DEFINED), parameter)


def adapter_config(parts: Parts, base: Checkpoint, experts: Sequence[Expert]) -> dict[str, Any]:
    """The configuration of an adapter with these parts. Scales are in the factors, so that each is 1."""
    modules = [pair.target for pair in parts.pairs if pair.kind != "parameter"]
    parameters = [pair.target for pair in parts.pairs if pair.kind == "parameter"]
    ranks = Counter(pair.rank for pair in parts.pairs)
    rank = parts.experts_rank or max(ranks, key=lambda one: (ranks[one], one), default=1)
    others = {pair.target: pair.rank for pair in parts.pairs if pair.rank != rank}
    suffixes = _Suffixes({*_modules(base.tensors), *(pair.target for pair in parts.pairs)})
    patterns: dict[str, int] = {}
    for other in sorted(set(others.values())):
        patterns |= dict.fromkeys(suffixes.covering([name for name, own in others.items() if own == other]), other)
    task, saved = _with_heads(_task(base, experts), parts.saved, base)
    return {
        "peft_type": "LORA",
        "task_type": task,
        "base_model_name_or_path": _base_name(base, experts),
        "peft_version": _PEFT_VERSION,
        "inference_mode": True,
        "r": rank,
        "lora_alpha": rank,
        "rank_pattern": patterns,
        "alpha_pattern": dict(patterns),
        "target_modules": suffixes.covering(modules) if parts.pairs else _NO_TARGETS,
        "target_parameters": suffixes.covering(parameters) or None,
        "modules_to_save": sorted(saved) or None,
        "bias": "all" if parts.biases else "none",
        "use_rslora": False,
        "use_dora": False,
        "fan_in_fan_out": parts.conv1d,
        "lora_dropout": 0.0,
        "init_lora_weights": True,
        "ensure_weight_tying": parts.tied,
    }


class _Suffixes:
    """Short names for sets of modules: PEFT takes a module for a target whose name ends with one, after a dot."""

    def __init__(self, every: Collection[str]) -> None:
        self._counts = Counter(suffix for name in every for suffix in _endings(name))

    def covering(self, names: Sequence[str]) -> list[str]:
        """The shortest endings that these modules have and no others."""
        own = Counter(suffix for name in names for suffix in _endings(name))
        return sorted({next((one for one in _endings(name) if own[one] == self._counts[one]), name) for name in names})


def _endings(name: str) -> list[str]:
    """The endings of a name from a dot on, the shortest first, and the name itself."""
    words = name.split(".")
    return [".".join(words[start:]) for start in range(len(words) - 1, -1, -1)]


def _modules(tensors: Mapping[str, Any]) -> set[str]:
    """The names of all tensors and of the modules around them."""
    every: set[str] = set()
    for name in tensors:
        while name and name not in every:
            every.add(name)
            name = name.rpartition(".")[0]
    return every


def _task(base: Checkpoint, experts: Sequence[Expert]) -> str | None:
    """The task that all adapters name, else that of the base's architecture."""
    named = {expert.adapter.config.task_type for expert in experts if expert.adapter is not None}
    if len(named) == 1 and (task := next(iter(named))):
        return task
    architectures = (base.config or {}).get("architectures")
    first = architectures[0] if isinstance(architectures, list) and architectures else ""
    return next((task for ending, task in _TASKS.items() if str(first).endswith(ending)), None)


def _with_heads(task: str | None, saved: Sequence[str], base: Checkpoint) -> tuple[str | None, list[str]]:
    """The task, and the modules that are saved whole, each of the task's heads as one of them.

    No task where a head is not saved whole: PEFT's class for the task would look for it in vain.
    """
    heads: dict[str, set[str]] = {}
    for module in {name.rpartition(".")[0] for name in base.tensors}:
        for head in _HEADS.get(task or "", ()):
            if (found := re.match(rf"(?:.+\.)?{head}(?=\.|$)", module)) is not None:
                heads.setdefault(found[0], set()).add(module)
    inside = set().union(*heads.values())
    if not inside <= set(saved):
        return None, list(saved)
    return task, [*heads, *(module for module in saved if module not in inside)]


def _base_name(base: Checkpoint, experts: Sequence[Expert]) -> str:
    """Where PEFT finds the base: the hub's name that the adapters give, or the base's location."""
    if base.location.startswith("hf://"):
        return base.location.removeprefix("hf://").partition("@")[0]
    named = {expert.adapter.config.base_model for expert in experts if expert.adapter is not None}
    name = next(iter(named)) if len(named) == 1 else ""
    return name if _HUB.fullmatch(name) is not None else base.location
