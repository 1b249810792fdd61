"""What the configs of an expert and the base compute differently, by keys and values.

Weights mean something only under the config that they were trained with, and the result gets one config. Sections of
language models and the spellings of transformers 4 and 5 are compared with each other.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from svc_dist.checkpoint.checkpoint import CONFIG, Checkpoint
from svc_dist.errors import PlanError, Warned, warned
from svc_dist.plan.files.config_defaults import defaults_of

_SHOWN = 8  # differences in a message
_DEEPEST = 4  # sections in sections
#: Sections with the configs of language models in those of multimodal ones.
_LANGUAGE = re.compile(r"(text|llm|language|lang|thinker)_config")
#: Keys that change no computation, or that tensors and other checks decide.
_IGNORED = re.compile(
    r"_.*|.*(token|tokens)(_ids?|_index|_indices|_list)?|.*drop.*|.*init.*|.*loss.*|.*aux.*|.*_lr|(un)?freeze.*|tune_.*"
    r"|transformers_version|torch_dtype|dtype|torchscript|use_bfloat16|use_cache|use_return_dict|return_.*|output_.*"
    r"|vocab_size|.*_vocab_size|architectures|model_type|tie_.*|tokenizer_class|auto_map|name_or_path|.*attn_impl.*"
    r"|.*flash.*|gradient_checkpointing.*|quantization.*|compression_config|max_position_embeddings|max_seq.*"
    r"|max_sequence_length|n_positions|n_ctx|seq_length|model_max_length|.*max_length|min_length|pretraining_tp|id2label"
    r"|label2id|num_labels|problem_type|finetuning_task|task_specific_params|classifier_.*|summary_.*|prefix|pruned_heads"
    r"|chunk_size_feed_forward|is_decoder|is_encoder_decoder|add_cross_attention|cross_attention_hidden_size|do_sample"
    r"|temperature|top_[kp]|typical_p|num_beams|num_beam_groups|diversity_penalty|repetition_penalty|length_penalty"
    r"|no_repeat_ngram_size|encoder_no_repeat_ngram_size|num_return_sequences|early_stopping|bad_words_ids|forced_.*"
    r"|suppress_.*|begin_suppress.*|remove_invalid_values|exponential_decay.*|tf_legacy_loss|keys_to_ignore.*|unsloth.*"
    r"|rope_.*|partial_rotary_factor|rotary_pct|use_sliding_window|max_window_layers|sliding_window_pattern|.*version"
    r"|router_jitter.*|output_router.*|bos|eos|pad|.*_path|.*_dir|tokenizer_.*|training_.*|.*_tp|mm_.*|use_mm_.*"
    r"|num_nextn_.*|(?:.*_)?mtp(?:_.*)?"
)
#: The value of a key that a config leaves out. Other keys are compared only where both configs have them.
_ABSENT: dict[str, Any] = {
    "sliding_window": None, "attention_bias": False, "mlp_bias": False, "attn_logit_softcapping": None,
    "final_logit_softcapping": None, "embedding_multiplier": 1.0, "logits_scaling": 1.0, "residual_multiplier": 1.0,
    "clip_qkv": None, "use_qk_norm": False, "use_bidirectional_attention": False, "rope_theta": 10000.0,
    "partial_rotary_factor": 1.0, "rope_type": "default",
}  # fmt: skip
#: One key under the names that architectures give it.
_NAMES = {
    **dict.fromkeys(("d_model", "n_embd"), "hidden_size"),
    **dict.fromkeys(("d_ff", "n_inner", "ffn_dim", "ffn_hidden_size"), "intermediate_size"),
    **dict.fromkeys(("n_layer", "n_layers", "num_layers"), "num_hidden_layers"),
    **dict.fromkeys(("n_head", "n_heads", "num_heads"), "num_attention_heads"),
    **dict.fromkeys(("num_local_experts", "n_routed_experts", "moe_num_experts"), "num_experts"),
    "hidden_activation": "hidden_act", "activation_function": "hidden_act",
}  # fmt: skip
#: Keys on which shapes and names of tensors depend: a fine-tune has its base's.
_SIZES = frozenset((
    "hidden_size", "intermediate_size", "moe_intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "head_dim", "num_experts", "n_shared_experts", "kv_lora_rank", "q_lora_rank", "state_size",
))  # fmt: skip
#: Activations of two names.
_SAME = {"swish": "silu", "gelu_new": "gelu_pytorch_tanh", "gelu_fast": "gelu_pytorch_tanh"}


@dataclass(frozen=True)
class Difference:
    """A key of which two configs have different values. ``size``: shapes or names of tensors depend on it."""

    key: str
    base: Any
    expert: Any
    size: bool

    def __str__(self) -> str:
        return f"{self.key} {_shown(self.expert)} and {_shown(self.base)}"


def compared(base: Checkpoint, experts: Sequence[Checkpoint]) -> dict[str, list[Difference]]:
    """By location, the differences of the experts whose configs compute differently than the base's."""
    found: dict[str, list[Difference]] = {}
    for expert in experts:
        if expert.config is not base.config and (differing := list(differences(base.config, expert.config))):
            found[expert.location] = differing
    return found


def differences(base: Mapping[str, Any] | None, expert: Mapping[str, Any] | None) -> Iterator[Difference]:
    """What two configs compute differently. Nothing is known of a model without a config."""
    if not base or not expert or base == expert:
        return
    ours, theirs = _settings(base), _settings(expert)
    if (len(ours) > 1 or _language(base) is not None) == (len(theirs) > 1 or _language(expert) is not None):
        yield from _named(base, expert)
    else:
        one, other = ((_language(config) or config).get("model_type") for config in (base, expert))
        if one and other and str(one).split("_")[0] != str(other).split("_")[0]:
            yield Difference("model_type", one, other, size=False)
    for section in ours:
        if section in theirs:
            yield from _sections(section, ours[section], theirs[section])


@contextmanager
def no_fine_tunes(base: str, found: Mapping[str, Sequence[Difference]]) -> Iterator[None]:
    """Put experts of other sizes in place of a PlanError's list of tensors that do not match because of them."""
    try:
        yield
    except PlanError:
        sizes = {location: [one for one in of if one.size] for location, of in found.items()}
        lines = [f"{location} is no fine-tune of this base: {_listed(of)}" for location, of in sizes.items() if of]
        if not lines:
            raise
        raise PlanError(
            "\n".join(lines),
            f"name the model that it was trained from as base_model in place of {base}, or leave it out",
            code="not-a-fine-tune",
        ) from None


def config_warnings(base: str, config: str, found: Mapping[str, Sequence[Difference]]) -> Iterator[Warned]:
    """The warnings about experts that compute differently, those alike in one. ``config``: the source of the result's
    config."""
    groups: dict[str, list[str]] = {}
    for location, of in found.items():
        groups.setdefault(_listed(of), []).append(location)
    for listed, locations in groups.items():
        verb = "computes" if len(locations) == 1 else "compute"
        yield warned(
            "config-differs",
            f"{', '.join(locations)} {verb} differently than the base {base}: {listed}. The result gets the {CONFIG} "
            f"of {config}: leave such an expert out, or name the model whose values are right as `config_source`",
        )


def _listed(of: Sequence[Difference]) -> str:
    ordered = sorted(of, key=lambda one: not one.size)
    more = f" and {len(of) - _SHOWN} more keys" if len(of) > _SHOWN else ""
    return ", ".join(map(str, ordered[:_SHOWN])) + more


def _shown(value: Any) -> str:
    text = "not set" if value is None else ", ".join(value) if _is_texts(value) else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _is_texts(value: Any) -> bool:
    return (
        isinstance(value, list) and len(value) < 3 and all(isinstance(one, str) and one.isprintable() for one in value)
    )


def _named(base: Mapping[str, Any], expert: Mapping[str, Any]) -> Iterator[Difference]:
    """Different architectures of two configs of the same form."""
    for key in ("model_type", "architectures"):
        one, other = base.get(key), expert.get(key)
        if one and other and one != other:
            yield Difference(key, one, other, size=False)
            return


def _language(config: Mapping[str, Any], depth: int = 0) -> Mapping[str, Any] | None:
    """The section of the language model, maybe in another one; None in a config without one."""
    for key, value in config.items():
        if isinstance(value, Mapping) and _LANGUAGE.fullmatch(key):
            return (_language(value, depth + 1) if depth < _DEEPEST else None) or value
    return None


def _settings(config: Mapping[str, Any], path: str = "", depth: int = 0) -> dict[str, dict[str, Any]]:
    """The keys of each section that a model computes with; the language model's are those of the section ``""``."""
    sections: dict[str, dict[str, Any]] = {}
    nested: dict[str, dict[str, Any]] = {}
    for key, value in config.items() if depth < _DEEPEST else ():
        if isinstance(value, Mapping) and _LANGUAGE.fullmatch(key):
            nested = _settings(value, path, depth + 1)
        elif isinstance(value, Mapping) and key.endswith("_config") and not _IGNORED.fullmatch(key):
            sections |= _settings(value, f"{path}{key}.", depth + 1)
    flat = {key: value for key, value in config.items() if not key.endswith("_config")}
    return {**sections, **nested, path: {**_computing(flat), **nested.get(path, {})}}


def _computing(section: Mapping[str, Any]) -> dict[str, Any]:
    """A section's keys under one name each, with values that follow from others filled in."""
    values: dict[str, Any] = {}
    for key, value in section.items():
        if not _IGNORED.fullmatch(key):
            name = _NAMES.get(key, key)
            if name not in values or key == "hidden_activation":
                values[name] = _SAME.get(value, value) if isinstance(value, str) else value
    heads, width = values.get("num_attention_heads"), values.get("hidden_size")
    if isinstance(heads, int) and heads > 0:
        values["num_key_value_heads"] = values.get("num_key_value_heads") or heads
        if isinstance(width, int):
            values["head_dim"] = values.get("head_dim") or width // heads
    types = values.get("layer_types")
    everywhere = isinstance(types, list) and set(map(str, types)) <= {"full_attention"}
    if section.get("use_sliding_window") is False or everywhere:
        values["sliding_window"] = None
    if everywhere:
        del values["layer_types"]
    values |= _rope(section)
    for key, value in defaults_of(section).items():
        if key not in section and (values.get(key) is None or key == "head_dim"):
            values[key] = value
    return values


def _rope(section: Mapping[str, Any]) -> dict[str, Any]:
    """Rotary embeddings, as transformers 4 or 5 write them: ``rope_theta``, ``rope_scaling.factor``, ..."""
    given = section.get("rope_parameters")
    of_types = isinstance(given, Mapping) and given and all(isinstance(one, Mapping) for one in given.values())
    kinds: dict[str, Mapping[str, Any]] = {}
    if of_types and isinstance(given, Mapping):
        kinds = {"" if kind == "full_attention" else f"{kind}.": one for kind, one in given.items()}
    elif isinstance(given, Mapping):
        kinds = {"": given}
    else:
        scaling = section.get("rope_scaling")
        theta = section.get("rope_theta", section.get("rotary_emb_base", section.get("global_rope_theta")))
        kinds[""] = {"rope_theta": theta, **(scaling if isinstance(scaling, Mapping) else {})}
        local = section.get("rope_local_base_freq", section.get("local_rope_theta"))
        if local is not None:
            kinds["sliding_attention."] = {"rope_theta": local}
    part = section.get("partial_rotary_factor", section.get("rotary_pct"))
    values: dict[str, Any] = {}
    for kind, one in kinds.items():
        form = one.get("rope_type", one.get("type")) or "default"
        form = "default" if form == "mrope" else form  # of text alone the same
        values[f"{kind}rope_theta"] = one.get("rope_theta")
        values[f"{kind}partial_rotary_factor"] = one.get("partial_rotary_factor", part)
        values[f"{kind}rope_scaling.rope_type"] = form
        if form != "default":
            rest = set(one) - {"rope_theta", "partial_rotary_factor", "rope_type", "type", "finetuned"}
            values |= {f"{kind}rope_scaling.{key}": one[key] for key in sorted(rest) if not key.startswith("mrope")}
    return values


def _sections(section: str, ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> Iterator[Difference]:
    for key in sorted({**ours, **theirs}):
        short = key.rpartition(".")[2]
        scaling = "rope_scaling." in key
        if not scaling and short not in _ABSENT and not (key in ours and key in theirs):
            continue
        one, other = ours.get(key), theirs.get(key)
        missing = _ABSENT.get(short)
        if (missing if one is None else one) != (missing if other is None else other):
            yield Difference(section + key, one, other, size=not section and key in _SIZES)
