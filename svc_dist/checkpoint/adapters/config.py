"""``adapter_config.json``: the scale of each pair of factors, or why svc_dist does not read the adapter.

Unknown keys are refused, and so are keys that change what the adapter adds.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from svc_dist.checkpoint.header import json_object, unique_names
from svc_dist.errors import DamagedInputError

MERGE_FIRST = (
    "merge it into its base with peft first, and name the result: "
    "PeftModel.from_pretrained(base, adapter).merge_and_unload().save_pretrained(path)"
)

#: Keys that do not change what an adapter adds, and those that this module reads.
_KNOWN = frozenset({
    "auto_mapping", "base_model_name_or_path", "bias", "corda_config", "ensure_weight_tying", "eva_config",
    "exclude_modules", "inference_mode", "layers_pattern", "layers_to_transform", "loftq_config", "lora_dropout",
    "lora_ga_config", "megatron_config", "megatron_core", "modules_to_save", "peft_type", "peft_version",
    "qalora_group_size", "revision", "runtime_config", "target_modules", "task_type",
    "r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "fan_in_fan_out", "init_lora_weights",
    "use_dora", "target_parameters",
})  # fmt: skip
#: Keys with which an adapter is more, or something else, than ``W + scale * B A``.
_REFUSED = {
    "use_qalora": "QA-LoRA pools the inputs",
    "use_bdlora": "block-diagonal LoRA is laid out otherwise",
    "lora_bias": "biases inside of LoRA layers are not read",
    "layer_replication": "replicated layers make another model",
    "trainable_token_indices": "trained tokens are not read",
    "alora_invocation_tokens": "activated LoRA acts on some tokens only",
    "arrow_config": "Arrow routes between several adapters",
}
#: Initialisations that leave the base's weights unchanged; the others move a part of them into the adapter.
_PLAIN_STARTS = (True, False, None, "gaussian", "eva", "orthogonal", "mica")
_PATTERN_LENGTH, _PATTERN_REPEATS, _PATTERN_GROUPS = 256, 3, 2

#: Values by regular expressions for names of modules; the first that matches counts.
Patterns = tuple[tuple[re.Pattern[str], Any], ...]


@dataclass(frozen=True)
class AdapterConfig:
    """The keys of an adapter's configuration that svc_dist reads.

    ``base_model``: the name or path of the model that it was trained on, empty where the configuration names none;
    ``peft_version``: (0,) before 0.18, which first recorded it; ``ensure_weight_tying``: the output head and the
    embedding were trained as one; ``task_type``: empty where the configuration names none.
    """

    rank: int
    alpha: float
    rank_pattern: Patterns
    alpha_pattern: Patterns
    use_rslora: bool
    fan_in_fan_out: bool
    use_dora: bool
    target_parameters: tuple[str, ...]
    base_model: str
    peft_version: tuple[int, ...]
    modules_to_save: tuple[str, ...]
    ensure_weight_tying: bool
    task_type: str = ""

    def targets(self, parameter: str) -> bool:
        """Whether a parameter is one of ``target_parameters``, by PEFT's rule for names."""
        return any(parameter == one or parameter.endswith(f".{one}") for one in self.target_parameters)

    def scale(self, module: str) -> tuple[int, float]:
        """The rank of a module's pair and the factor of ``B A``: ``alpha / r``, or ``alpha / sqrt(r)`` (rsLoRA)."""
        rank = _matching(self.rank_pattern, module, self.rank)
        alpha = _matching(self.alpha_pattern, module, self.alpha)
        return rank, alpha / (math.sqrt(rank) if self.use_rslora else rank)

    def saves_module(self, name: str) -> bool:
        """Whether a tensor belongs to a module that was trained whole, by PEFT's rule for names."""
        module = name.rpartition(".")[0]
        return any(module == one or module.endswith(f".{one}") for one in self.modules_to_save)


def parse_adapter_config(text: bytes, where: str) -> AdapterConfig:
    """Check a configuration. ``where`` names the file. Raises DamagedInputError naming the key and what to do."""
    data = json_object(text, where, hook=unique_names)
    kind = data.get("peft_type")
    if kind != "LORA":
        raise DamagedInputError(
            f"{where}: peft_type is {kind!r}; of adapters only LORA is read", MERGE_FIRST, code="adapter-not-supported"
        )
    for key, value in data.items():
        if key in _REFUSED and value:
            raise DamagedInputError(
                f"{where}: {key} is set: {_REFUSED[key]}", MERGE_FIRST, code="adapter-not-supported"
            )
        if value and key not in _KNOWN and key not in _REFUSED:
            raise DamagedInputError(
                f"{where}: {key} is set, and it is not known what that changes",
                MERGE_FIRST,
                code="adapter-not-supported",
            )
    start = data.get("init_lora_weights")
    if not any(start is plain or (isinstance(plain, str) and start == plain) for plain in _PLAIN_STARTS):
        raise DamagedInputError(
            f"{where}: init_lora_weights is {start!r}: such an adapter is relative to weights that its start changed",
            "save it relative to the base (peft: path_initial_model_for_weight_conversion), or " + MERGE_FIRST,
            code="adapter-not-supported",
        )
    return AdapterConfig(
        rank=_rank(data.get("r"), f"{where}: r"),
        alpha=_number(data.get("lora_alpha"), f"{where}: lora_alpha"),
        rank_pattern=_patterns(data, "rank_pattern", _rank, where),
        alpha_pattern=_patterns(data, "alpha_pattern", _number, where),
        use_rslora=_flag(data, "use_rslora", where),
        fan_in_fan_out=_flag(data, "fan_in_fan_out", where),
        use_dora=_flag(data, "use_dora", where),
        target_parameters=_names(data, "target_parameters", where),
        base_model=str(data.get("base_model_name_or_path") or ""),
        peft_version=tuple(map(int, re.findall(r"\d+", str(data.get("peft_version") or "0").partition("@")[0])[:2])),
        modules_to_save=_names(data, "modules_to_save", where),
        ensure_weight_tying=_flag(data, "ensure_weight_tying", where),
        task_type=str(data.get("task_type") or ""),
    )


def _matching(patterns: Patterns, module: str, default: Any) -> Any:
    return next((value for pattern, value in patterns if pattern.match(module)), default)


def _patterns(data: Mapping[str, Any], key: str, check: Callable[[Any, str], Any], where: str) -> Patterns:
    given = data.get(key) or {}
    if not isinstance(given, dict):
        raise DamagedInputError(f"{where}: {key} is not a mapping of module patterns to values")
    where = f"{where}: {key}"
    return tuple((_compiled(pattern, where), check(value, f"{where}, {pattern!r}")) for pattern, value in given.items())


def _compiled(pattern: str, where: str) -> re.Pattern[str]:
    """A pattern as in PEFT: it matches a module's whole name, or the name after some dot.

    Expressions that could take exponential time are refused.
    """
    counts = [len(re.findall(kind, pattern)) for kind in (r"[*+?{]", r"\(")]
    if len(pattern) > _PATTERN_LENGTH or counts[0] > _PATTERN_REPEATS or counts[1] > _PATTERN_GROUPS:
        raise DamagedInputError(
            f"{where}: the pattern {pattern[:_PATTERN_LENGTH]!r} is too intricate to be tried on every module",
            "spell the modules' names out",
        )
    if re.search(r"\)[*+?{]", pattern):
        raise DamagedInputError(f"{where}: the pattern {pattern!r} repeats a group", "spell the modules' names out")
    try:
        return re.compile(rf"(.*\.)?({pattern})$")
    except (re.error, RecursionError, OverflowError):
        raise DamagedInputError(f"{where}: {pattern!r} is not a regular expression") from None


def _names(data: Mapping[str, Any], key: str, where: str) -> tuple[str, ...]:
    value = data.get(key) or []
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise DamagedInputError(f"{where}: {key} is {value!r}, but must be a list of names")
    return tuple(value)


def _rank(value: Any, where: str) -> int:
    if type(value) is not int or not 0 < value < 2**31:
        raise DamagedInputError(f"{where} is {value!r}, but a rank is a whole number above 0")
    return value


def _number(value: Any, where: str) -> float:
    if type(value) not in (int, float) or not abs(value) < 1e30:
        raise DamagedInputError(f"{where} is {value!r}, but must be a number")
    return float(value)


def _flag(data: Mapping[str, Any], key: str, where: str) -> bool:
    value = data.get(key)
    if value not in (None, False, True):
        raise DamagedInputError(f"{where}: {key} is {value!r}, but must be true or false")
    return bool(value)
