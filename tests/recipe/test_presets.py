"""Presets fill in what a recipe leaves out, and everything they do is visible."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

import svc_dist
from svc_dist.cli.methods_page import render
from svc_dist.errors import RecipeError
from svc_dist.recipe.load import recipe_from
from svc_dist.recipe.presets import PRESETS
from tests.support.checkpoints import recipe_data, write_checkpoint, write_llamas

MODELS = {"base_model": "b", "models": [{"model": "e0"}, {"model": "e1"}]}


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_a_valid_recipe_whose_values_are_shown(name: str, tmp_path: Path) -> None:
    models = write_llamas(tmp_path, experts=2)
    method = PRESETS[name].values.get("merge_method", "ties")
    recipe = recipe_data(models, method, preset=name)
    plan = svc_dist.make_plan(recipe)
    assert "preset" not in plan.recipe
    assert plan.recipe["merge_method"] == method
    assert plan.recipe["parameters"] == dict(PRESETS[name].values.get("parameters", {}))


def test_what_the_recipe_says_itself_wins() -> None:
    recipe = recipe_from({**MODELS, "preset": "swudi-llama-full", "parameters": {"rank_ratio": 0.5}})
    chosen = recipe.results[0].default
    assert (chosen.parameters["rank_ratio"], chosen.parameters["exp_time"]) == (0.5, 300)


def test_svc_paper_goes_on_top_of_any_method() -> None:
    chosen = recipe_from({**MODELS, "preset": "svc-paper", "merge_method": "ties"}).results[0].default
    assert chosen.method == "ties"
    assert chosen.calibration == {"method": "svc", "alpha": 0.5, "side": "left"}


def test_every_matrix_is_calibrated_where_a_preset_says_so(tmp_path: Path) -> None:
    models = write_llamas(tmp_path, experts=2)
    recipe = {"base_model": str(models[0]), "models": [{"model": str(m)} for m in models[1:]]}
    calibrated = {}
    for name in ("svc-paper", "svc-every-matrix"):
        plan = svc_dist.make_plan({**recipe, "preset": name})
        of = {tensor.name: plan.dispositions(tensor)[0].calibration for tensor in plan.tensors}
        calibrated[name] = {tensor for tensor, calibration in of.items() if calibration is not None}
    added = calibrated["svc-every-matrix"] - calibrated["svc-paper"]
    assert calibrated["svc-paper"]
    assert added == {"model.embed_tokens.weight", "lm_head.weight"}


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        ({"side": "right"}, {"method": "svc", "alpha": 1.0, "side": "right"}),
        ({"method": "svc", "side": "right"}, {"method": "svc", "alpha": 1.0, "side": "right"}),
        ("svc", {"method": "svc", "alpha": 1.0, "side": "left"}),
        ({"alpha": 0.2}, {"method": "svc", "alpha": 0.2, "side": "left"}),
        ("none", None),
        (None, None),
    ],
)
def test_a_calibration_keeps_what_the_recipe_does_not_say_of_it(own: object, expected: object) -> None:
    recipe = recipe_from({**MODELS, "preset": "svc-paper-tsv-m", "calibrate": own})
    assert recipe.results[0].default.calibration == expected


def test_a_presets_rule_may_match_nothing_and_comes_after_the_recipes_own(tmp_path: Path) -> None:
    models = write_llamas(tmp_path, experts=2, head=False)
    rule = {"match": "*embed_tokens.weight", "merge_method": "linear"}
    recipe = {"base_model": str(models[0]), "models": [{"model": str(m)} for m in models[1:]], "rules": [rule]}
    plan = svc_dist.make_plan({**recipe, "preset": "swudi-llama-full"})
    embedding = next(tensor for tensor in plan.tensors if "embed_tokens" in tensor.name)
    assert plan.dispositions(embedding)[0].method == "linear"


#: Tensors of multimodal models by their names on the hub: of the language model, and of everything else.
FAMILIES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "Qwen2.5-Omni": (
        ("thinker.model.layers.0.mlp.up_proj.weight", "thinker.model.embed_tokens.weight", "thinker.lm_head.weight"),
        (
            "thinker.visual.blocks.0.mlp.up_proj.weight", "thinker.audio_tower.layers.0.fc1.weight",
            "talker.model.layers.0.mlp.up_proj.weight", "talker.thinker_to_talker_proj.weight",
            "talker.codec_head.weight", "token2wav.code2wav_dit_model.proj_out.weight",
            "token2wav.code2wav_bigvgan_model.conv_pre.weight",
        ),
    ),
    "Qwen3-Omni": (
        ("thinker.model.layers.0.mlp.experts.0.up_proj.weight", "thinker.model.layers.0.mlp.gate.weight"),
        (
            "thinker.visual.merger_list.0.mlp.0.weight", "talker.text_projection.linear_fc1.weight",
            "talker.code_predictor.model.layers.0.mlp.up_proj.weight", "code2wav.decoder.0.conv.weight",
        ),
    ),
    "MiniCPM-o": (
        ("llm.model.layers.0.mlp.up_proj.weight", "llm.lm_head.weight", "llm.model.embed_tokens.weight"),
        (
            "vpm.encoder.layers.0.mlp.fc1.weight", "apm.layers.0.fc1.weight", "audio_projection_layer.linear1.weight",
            "tts.model.layers.0.mlp.up_proj.weight", "tts.emb_code.0.weight", "resampler.kv_proj.weight",
        ),
    ),
    "Phi-4-multimodal": (
        ("model.layers.0.mlp.down_proj.base_layer.weight", "model.embed_tokens.weight"),
        (
            "model.layers.0.mlp.down_proj.lora_A.vision.weight", "model.layers.0.mlp.down_proj.lora_B.speech.weight",
            "model.embed_tokens_extend.audio_embed.encoder.encoders.0.feed_forward_in.net.2.weight",
            "model.embed_tokens_extend.image_embed.img_projection.0.weight",
        ),
    ),
    "Gemma3n": (
        ("model.language_model.layers.0.mlp.up_proj.weight", "model.language_model.embed_tokens_per_layer.weight"),
        (
            "model.audio_tower.conformer.0.ffw_layer_start.ffw_layer_1.weight", "model.embed_audio.embedding.weight",
            "model.vision_tower.timm_model.blocks.0.0.conv_exp.weight", "model.embed_vision.embedding.weight",
        ),
    ),
    "Llama-4": (
        ("language_model.model.layers.0.feed_forward.experts.gate_up_proj", "language_model.lm_head.weight"),
        ("vision_model.model.layers.0.mlp.fc1.weight", "multi_modal_projector.linear_1.weight"),
    ),
    "InternVL": (
        ("language_model.model.layers.0.mlp.up_proj.weight",),
        ("vision_model.encoder.layers.0.mlp.fc1.weight", "mlp1.1.weight"),
    ),
    "Qwen2-VL": (
        ("model.layers.0.mlp.up_proj.weight", "lm_head.weight", "model.norm.weight"),
        ("visual.blocks.0.mlp.fc1.weight", "visual.patch_embed.proj.weight", "visual.merger.mlp.0.weight"),
    ),
    "Voxtral in Mistral's format": (
        ("layers.0.feed_forward.w1.weight", "tok_embeddings.weight", "output.weight", "norm.weight"),
        (
            "mm_whisper_embeddings.whisper_encoder.transformer.layers.0.feed_forward.w1.weight",
            "mm_whisper_embeddings.audio_language_projection.0.weight",
        ),
    ),
    "BLIP-2": (
        ("language_model.model.decoder.layers.0.fc1.weight",),
        ("qformer.encoder.layer.0.output.dense.weight", "query_tokens", "language_projection.weight"),
    ),
    "Janus": (
        ("language_model.model.layers.0.mlp.up_proj.weight",),
        ("gen_vision_model.decoder.conv_in.weight", "gen_head.output_mlp_projector.weight", "aligner.layers.0.weight"),
    ),
    "Ovis": (
        ("llm.model.layers.0.mlp.up_proj.weight",),
        ("visual_tokenizer.head.0.weight", "vte.weight"),
    ),
    "GLM-4V": (
        ("transformer.encoder.layers.0.mlp.dense_h_to_4h.weight",),
        ("transformer.vision.transformer.layers.0.mlp.fc1.weight",),
    ),
    "BAGEL": (
        ("language_model.model.layers.0.self_attn.q_proj.weight",),
        ("language_model.model.layers.0.self_attn.q_proj_moe_gen.weight", "vit_model.encoder.layers.0.fc1.weight"),
    ),
    "GPT-2": (("transformer.h.0.mlp.c_fc.weight", "h.0.attn.c_attn.weight", "wte.weight", "ln_f.weight"), ()),
    "Mamba": (("backbone.layers.0.mixer.in_proj.weight", "backbone.embeddings.weight"), ()),
    "T5": (("encoder.block.0.layer.0.SelfAttention.q.weight", "shared.weight"), ()),
}  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
def test_the_language_model_alone_is_merged_by_its_preset(family: str, tmp_path: Path) -> None:
    language, others = FAMILIES[family]
    tensors = {name: torch.ones(2, 2) for name in (*language, *others)}
    models = [write_checkpoint(tmp_path / name, tensors) for name in ("base", "one", "two")]
    plan = svc_dist.make_plan(recipe_data(models, "ties", preset="llm-backbone-only", calibrate="svc"))
    of = {tensor.name: plan.dispositions(tensor)[0] for tensor in plan.tensors}
    assert {name for name, one in of.items() if one.kind == "merged"} == set(language)
    assert {one.method for name, one in of.items() if name in language} == {"ties"}
    assert not [warning for warning in plan.warnings if "does not know" in warning]


def test_modules_that_the_preset_does_not_know_are_kept_and_named(tmp_path: Path) -> None:
    names = ["model.layers.0.mlp.up_proj.weight", "beats.encoder.weight", "beats.decoder.weight", "model.odd.weight"]
    models = [write_checkpoint(tmp_path / name, {n: torch.ones(2, 2) for n in names}) for name in ("base", "one")]
    recipe = recipe_data(models, preset="llm-backbone-only")
    plan = svc_dist.make_plan(recipe)
    assert {t.name for t in plan.tensors if plan.dispositions(t)[0].kind == "merged"} == {names[0]}
    (warning,) = plan.warnings
    assert "keeps them unmerged: beats (2 tensors), model.odd (1 tensor); " in warning
    rule = yaml.safe_load(warning[warning.index("{") : warning.index("}") + 1])
    assert rule == {"match": "beats.*", "merge_method": "task_arithmetic"}
    plan = svc_dist.make_plan(recipe | {"rules": [rule]})
    assert {t.name for t in plan.tensors if plan.dispositions(t)[0].kind == "merged"} == set(names[:3])


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"preset": "svc-papr"}, "did you mean 'svc-paper'"),
        ({"preset": "swudi-lora", "merge_method": "ties"}, "for merge_method swudi, but the recipe says ties"),
        ({"preset": "svc-paper", "merge_method": "tsv_m"}, "not for merge_method tsv_m: take svc-paper-tsv-m"),
        ({"preset": "svc-paper", "calibrate": 3}, "calibrate"),
        ({"preset": "swudi-lora", "rules": "none"}, "rules"),
    ],
)
def test_wrong_presets_are_named(keys: dict[str, object], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        recipe_from({**MODELS, **keys})


def test_the_docs_page_is_what_the_registry_says() -> None:
    page = Path(__file__).parents[2] / "docs" / "methods.md"
    assert page.read_text() == render(), "regenerate it: svc-dist methods --markdown > docs/methods.md"
