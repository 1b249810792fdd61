"""Experts of several modalities over one language model: its matrices merged, towers kept, the result loads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor
from transformers import (
    Qwen2AudioConfig,
    Qwen2AudioForConditionalGeneration,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
)

import svc_dist
from svc_dist.checks.verify import verify

TEXT: dict[str, Any] = {
    "vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "tie_word_embeddings": False, "bos_token_id": 1,
    "eos_token_id": 2,
}  # fmt: skip
GROWN = TEXT | {"vocab_size": 104}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``base``, a vision-language and an audio-language model over it, as the library itself writes them."""
    folder = tmp_path_factory.mktemp("modalities")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.manual_seed(0)
    base = Qwen2ForCausalLM(Qwen2Config(**TEXT))
    vision = Qwen2VLForConditionalGeneration(
        Qwen2VLConfig(
            text_config=GROWN | {"rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 2]}},
            vision_config={
                "depth": 1, "embed_dim": 32, "hidden_size": 32, "num_heads": 4, "mlp_ratio": 2, "patch_size": 4,
            },
            image_token_id=97, video_token_id=98, vision_start_token_id=99, vision_end_token_id=100,
        )
    )  # fmt: skip
    audio = Qwen2AudioForConditionalGeneration(
        Qwen2AudioConfig(
            text_config=TEXT | {"model_type": "qwen2"},
            audio_config={
                "d_model": 32, "encoder_layers": 1, "encoder_attention_heads": 4, "encoder_ffn_dim": 48,
                "num_mel_bins": 16, "max_source_positions": 20,
            },
            audio_token_index=95,
        )
    )  # fmt: skip
    backbone = base.state_dict()
    for model in (vision, audio):  # fine-tunes of the base's language model, and more tokens in one of them
        own = model.state_dict()
        for name, tensor in own.items():
            end = name.replace("language_model.model.", "model.").replace("model.language_model.", "model.")
            source = backbone.get(end.removeprefix("language_model."))
            if source is not None and "visual" not in name and "audio" not in name:
                tensor[: source.shape[0]] = source + 0.01 * torch.randn(source.shape)
    for name, model in (("base", base), ("vision", vision), ("audio", audio)):
        model.to(torch.bfloat16).save_pretrained(folder / name)
    return folder


def recipe(folder: Path, /, **keys: Any) -> dict[str, Any]:
    return {
        "base_model": str(folder / "base"),
        "models": [{"model": str(folder / "vision")}, {"model": str(folder / "audio")}],
        "merge_method": "task_arithmetic",
        "preset": "llm-backbone-only",
    } | keys


def merged(folder: Path, output: Path, /, **keys: Any) -> dict[str, Tensor]:
    svc_dist.merge(recipe(folder, **keys), output, executor="inline")
    result = verify(str(output), deep=True)
    assert result.ok, result.problems
    return {name: tensor for file in output.glob("*.safetensors") for name, tensor in load_file(file).items()}


def stored(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "model.safetensors")


def test_the_union_loads_as_the_vision_language_model(models: Path, tmp_path: Path) -> None:
    language = {"from": "language_model.", "to": ""}
    entries = [{"model": str(models / "vision")}, {"model": str(models / "audio"), "rename": language}]
    rules = [{"match": ["*embed_tokens.weight", "lm_head.weight"], "keep": "vision"}]
    found = merged(models, tmp_path / "out", models=entries, rules=rules, config_source="vision")
    base, vision, audio = (stored(models / name) for name in ("base", "vision", "audio"))

    towers = {name: t for name, t in vision.items() if name.startswith("visual.")}
    towers |= {name: t for name, t in audio.items() if name.startswith(("audio_tower.", "multi_modal_projector."))}
    kept = {name: vision[name] for name in ("model.embed_tokens.weight", "lm_head.weight")}
    for name, tensor in (towers | kept).items():
        assert torch.equal(found[name], tensor), name
    for name in set(base) - set(kept):
        origin, one, other = base[name].float(), vision[name].float(), audio["language_model." + name].float()
        assert torch.equal(found[name], (origin + (one - origin) + (other - origin)).bfloat16()), name
    assert set(found) == set(base) | set(towers)

    model, info = Qwen2VLForConditionalGeneration.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["mismatched_keys"]
    assert model.get_input_embeddings().weight.shape[0] == GROWN["vocab_size"]
    assert torch.isfinite(model(input_ids=torch.tensor([[3, 4, 5]])).logits).all()


def test_the_same_merge_under_other_names_loads_as_the_audio_language_model(models: Path, tmp_path: Path) -> None:
    rename = [{"from": "model.", "to": "language_model.model."}, {"from": "lm_head.", "to": "language_model.lm_head."}]
    rules = [{"match": ["*embed_tokens.weight", "*lm_head.weight"], "keep": "audio"}]
    found = merged(models, tmp_path / "out", rename=rename, rules=rules, config_source="audio")
    assert {name for name in found if "visual" not in name} == set(stored(models / "audio"))
    model, info = Qwen2AudioForConditionalGeneration.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["mismatched_keys"]
    assert torch.isfinite(model(input_ids=torch.tensor([[3, 4, 5]])).logits).all()


def test_the_rows_that_the_base_has_are_merged_and_the_others_left_out(models: Path, tmp_path: Path) -> None:
    language = {"from": "language_model.", "to": ""}
    entries = [{"model": str(models / "vision")}, {"model": str(models / "audio"), "rename": language}]
    found = merged(models, tmp_path / "out", models=entries, vocab="base")
    base, vision, audio = (stored(models / name) for name in ("base", "vision", "audio"))
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        origin, one = base[name].float(), vision[name][: len(base[name])].float()
        other = audio["language_model." + name].float()
        assert torch.equal(found[name], (origin + (one - origin) + (other - origin)).bfloat16())
    model = Qwen2ForCausalLM.from_pretrained(tmp_path / "out")  # the base's files, by default
    assert model.config.vocab_size == TEXT["vocab_size"]


def test_without_a_word_about_towers_the_plan_is_refused_and_says_what_may_be_done(models: Path) -> None:
    with pytest.raises(svc_dist.SvcDistError) as caught:
        svc_dist.make_plan(recipe(models, preset=None))
    message = str(caught.value)
    assert "audio_tower.conv1.bias: in" in message
    assert "written out by `keep: owner` or `keep: <model>`" in message
    assert "`vocab: base` those of the base" in message
