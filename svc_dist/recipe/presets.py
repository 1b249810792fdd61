"""Presets: named recipe values from papers and their authors' code, which expand to visible keys.

A preset fills in only what the recipe leaves out. The plan and the recipe that is published with the model show the
expanded values.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Preset:
    """Recipe keys to fill in, why, and their source. ``instead``: other presets, by the merge method they are for."""

    values: Mapping[str, Any]
    doc: str
    source: str
    instead: Mapping[str, str] = field(default_factory=dict)


#: The authors of SWUDI keep embeddings and the output head as they are in the base.
_KEEP = ({"match": ["*embed_tokens.weight", "*lm_head.weight"], "keep": "base", "optional": True},)

#: Modules outside the language model, wherever they stand in a name: towers, projectors, and parts that speak or draw.
_MODALITIES = (
    "*visual*", "*vision*", "*vit.*", "vit_*", "*image*", "*audio*", "*speech*", "*whisper*", "*video*", "*acoustic*",
    "*projector*", "*multi_modal*", "*multimodal*", "*resampler*", "*perceiver*", "*qformer*", "*Qformer*",
    "*connector*", "*query_tokens*", "*abstractor*", "*patch_merger*", "*patch_embed*", "mlp1.*", "*.aligner.*",
    "aligner.*", "vpm.*", "*.vpm.*", "apm.*", "*.apm.*", "tts.*", "*.tts.*", "talker.*", "*.talker.*", "*token2wav*",
    "*code2wav*", "*vocoder*", "*vqmodel*", "vae.*", "*.vae.*", "*language_projection*", "gen_*", "*_moe_gen*", "vte.*",
    "*sam_model*", "*view_sep*", "*depth_decoder*", "*.Plora_*",
)  # fmt: skip

#: The language model: under a name of its own beside the towers, or as a model without towers names its modules.
_LANGUAGE = (
    "language_model.*", "*.language_model.*", "llm.*", "*.llm.*", "language.*", "text_model.*", "*.text_model.*",
    "llama_model.*", "backbone_model.*", "transformer.*", "model.transformer.*", "gpt_neox.*", "backbone.*", "rwkv.*",
    "mtp.*", "model.mtp.*", "encoder.block.*", "decoder.block.*", "shared.*", "model.decoder.layers.*",
    *(
        f"{wrapper}{module}"
        for wrapper in ("", "model.", "model.model.", "thinker.", "thinker.model.")
        for module in (
            "layers.*", "h.*", "blocks.*", "embed_tokens.*", "embed_tokens_per_layer.*", "tok_embeddings.*", "wte.*",
            "wpe.*", "word_embeddings*", "embeddings.weight", "embed_in.*", "per_layer_*", "rotary_emb.*", "norm.*",
            "norm_f.*", "ln_f.*", "final_layernorm.*", "lm_head.*", "output.*", "embed_out.*",
        )
    ),
)  # fmt: skip

#: In place of a merge method: the recipe's.
_RECIPES = "the recipe's"

#: The last rule of a preset that merges the language model alone: it takes what the rules before it do not know.
UNKNOWN_MODULES = {"match": ("*",), "keep": "owner", "optional": True}

PRESETS = {
    "llm-backbone-only": Preset(
        {
            "rules": (
                {"match": _MODALITIES, "keep": "owner", "optional": True},
                {"match": _LANGUAGE, "merge_method": _RECIPES, "optional": True},
                UNKNOWN_MODULES,
            )
        },
        "merges the language model alone: every other module as in the one model that has it (in the base, if it has "
        "it); a warning lists modules of unknown names",
        "",
    ),
    "svc-paper": Preset(
        {"merge_method": "task_arithmetic", "calibrate": {"method": "svc", "side": "left"}},
        "SVC with alpha 1/K on task arithmetic, as the paper uses it for every method but TSV-M",
        "Li et al. 2026, arXiv 2602.05536",
        instead={"tsv_m": "svc-paper-tsv-m"},
    ),
    "svc-paper-tsv-m": Preset(
        {"merge_method": "tsv_m", "calibrate": {"method": "svc", "alpha": 1.0, "side": "left"}},
        "TSV-M with SVC at alpha 1, which only suppresses, as the paper uses it",
        "Li et al. 2026, arXiv 2602.05536",
    ),
    "svc-every-matrix": Preset(
        {
            "merge_method": "task_arithmetic",
            "calibrate": {"method": "svc", "alpha": 0.1, "side": "left"},
            "embedding_patterns": (),
        },
        "SVC with alpha 0.1 on every matrix, embeddings and output heads too, as code other than the authors' does; "
        "the authors leave embeddings and projections of text as they were merged",
        "",
    ),
    "swudi-llama-full": Preset(
        {
            "merge_method": "swudi",
            "parameters": {"exp_time": 300, "rank_ratio": 0.85, "lambda": 1.0},
            "rules": _KEEP,
        },
        "SWUDI for full fine-tunes of LLMs: embeddings and head kept from the base, other tensors averaged",
        "Wei et al. 2026, arXiv 2606.07289",
    ),
    "swudi-lora": Preset(
        {"merge_method": "swudi", "parameters": {"exp_time": 1300, "rank_ratio": 0.01, "lambda": 0.2}, "rules": _KEEP},
        "SWUDI for LoRA experts of a 7B multimodal model (scale 0.2 was for five experts)",
        "Wei et al. 2026, arXiv 2606.07289",
    ),
    "swudi-clip": Preset(
        {"merge_method": "swudi", "parameters": {"exp_time": 1300, "rank_ratio": 0.65}},
        "SWUDI for CLIP ViT-B/32 with eight tasks",
        "Wei et al. 2026, arXiv 2606.07289",
    ),
    "swudi-a": Preset(
        {"merge_method": "swudi_a", "parameters": {"rank_rule": "participation_sqrt"}},
        "SWUDI-A with its default rank rule: nothing to tune",
        "Wei et al. 2026, arXiv 2606.07289",
    ),
}


def expand(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe with its preset's values filled in, without the key ``preset``.

    ``parameters`` and the keys of ``calibrate`` are filled in one by one (of a calibration with the preset's method); a
    preset's rules come after the recipe's. Raises KeyError for an unknown preset, ValueError when the recipe's merge
    method is not the one that the preset's values are for.
    """
    expanded = {key: value for key, value in recipe.items() if key != "preset"}
    name = recipe.get("preset")
    if name is None:
        return expanded
    preset = PRESETS[name]
    values = preset.values
    method = recipe.get("merge_method", values.get("merge_method"))
    if isinstance(method, str) and method in preset.instead:
        raise ValueError(f"{name} is not for merge_method {method}: take {preset.instead[method]}")
    if "parameters" in values and method != values["merge_method"]:
        raise ValueError(f"{name} is for merge_method {values['merge_method']}, but the recipe says {method}")
    if not isinstance(recipe.get("rules") or [], list) or not isinstance(recipe.get("parameters") or {}, Mapping):
        return expanded  # malformed: validation refuses it
    for key, value in values.items():
        if key == "rules":
            own = expanded.get("rules") or []
            expanded["rules"] = [*own, *(_rule(rule, method) for rule in value)]
        elif key == "parameters":
            expanded["parameters"] = {**value, **(expanded.get("parameters") or {})}
        elif key == "calibrate":
            own = expanded.get(key, value)
            given = {"method": own} if isinstance(own, str) else own
            same = isinstance(given, Mapping) and given.get("method", value["method"]) == value["method"]
            expanded[key] = {**value, **given} if same else own
        else:
            expanded.setdefault(key, [*value] if isinstance(value, tuple) else value)
    return expanded


def _rule(rule: Mapping[str, Any], method: Any) -> dict[str, Any]:
    """A preset's rule as a recipe has it. ``method``: the recipe's."""
    own = {"merge_method": method} if rule.get("merge_method") == _RECIPES else {}
    return {**rule, "match": list(rule["match"]), **own}
