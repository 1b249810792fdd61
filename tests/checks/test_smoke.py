"""Loading a merged model in transformers and running it: what it says of good, broken and unknown ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
    ViTConfig,
    ViTForImageClassification,
)

from svc_dist.checks.smoke import smoke
from svc_dist.errors import RecipeError, VerificationError
from tests.support.checkpoints import poke

SMALL = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}


def llama() -> PreTrainedModel:
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=60, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2,
        )
    ).bfloat16()  # fmt: skip


def save_tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = {word: number for number, word in enumerate(["[UNK]", "once", "upon", "a", "time"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]").save_pretrained(folder)


def test_a_language_model_goes_on_from_the_prompt(tmp_path: Path) -> None:
    llama().save_pretrained(tmp_path)
    save_tokenizer(tmp_path)
    found = smoke(str(tmp_path), "once upon a time", tokens=3)
    assert (found.architecture, found.dtype, found.shape) == ("LlamaForCausalLM", "bfloat16", (1, 4, 60))
    assert found.generated is not None
    assert found.generated.startswith("once upon a time")


def bert() -> PreTrainedModel:
    return BertForSequenceClassification(BertConfig(vocab_size=40, intermediate_size=32, **SMALL))


def vit() -> PreTrainedModel:
    return ViTForImageClassification(ViTConfig(image_size=32, intermediate_size=32, **SMALL))


def t5() -> PreTrainedModel:
    config = T5Config(vocab_size=50, d_model=24, d_kv=12, d_ff=32, num_layers=1, num_heads=2, decoder_start_token_id=0)
    return T5ForConditionalGeneration(config)


@pytest.mark.parametrize(("model", "shape"), [(llama, (1, 8, 60)), (bert, (1, 2)), (vit, (1, 2)), (t5, (1, 8, 50))])
def test_a_model_without_a_tokenizer_runs_forward(
    tmp_path: Path, model: Callable[[], PreTrainedModel], shape: tuple[int, ...]
) -> None:
    model().save_pretrained(tmp_path)
    found = smoke(str(tmp_path))
    assert found.generated is None
    assert found.shape == shape
    assert "every weight in its place" in found.text()


TEXT = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
VISION = {name: value for name, value in TEXT.items() if name != "vocab_size"} | {"image_size": 28, "patch_size": 14}
SPEECH = VISION | {
    "conv_dim": [8, 8], "conv_stride": [8, 8], "conv_kernel": [8, 8], "vocab_size": 16, "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2,
}  # fmt: skip
WHISPER = {
    "vocab_size": 64, "d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24, "num_mel_bins": 20,
    "max_source_positions": 30, "max_target_positions": 16, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    "decoder_start_token_id": 3,
}  # fmt: skip
BART = {name: value for name, value in WHISPER.items() if name[:4] not in ("num_", "max_")}
LLAVA = {
    "text_config": {"model_type": "llama", "num_key_value_heads": 2, **TEXT}, "image_token_index": 5,
    "vision_config": {"model_type": "clip_vision_model", "projection_dim": 8, **VISION},
}  # fmt: skip
RESNET = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]}
SEGFORMER = {
    "num_encoder_blocks": 2, "depths": [1, 1], "sr_ratios": [2, 1], "hidden_sizes": [8, 16], "patch_sizes": [7, 3],
    "strides": [4, 2], "num_attention_heads": [1, 2], "mlp_ratios": [2, 2], "decoder_hidden_size": 8,
}  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "keys"),
    [
        ("CLIPModel", {"text_config": TEXT, "vision_config": VISION, "projection_dim": 8}),
        ("CLIPVisionModelWithProjection", {**VISION, "projection_dim": 8}),
        ("SiglipModel", {"text_config": TEXT | {"projection_size": 16}, "vision_config": VISION}),
        ("ResNetForImageClassification", RESNET),
        ("SegformerForSemanticSegmentation", SEGFORMER),
        ("Wav2Vec2ForCTC", SPEECH),
        ("WhisperForConditionalGeneration", WHISPER),
        ("BartForSequenceClassification", BART | {"max_position_embeddings": 16}),
        ("LlavaForConditionalGeneration", LLAVA),
        ("VideoMAEModel", VISION | {"num_frames": 4}),
        ("T5EncoderModel", {"vocab_size": 50, "d_model": 24, "d_kv": 12, "d_ff": 32, "num_layers": 1, "num_heads": 2}),
    ],
)
def test_inputs_are_made_for_an_architecture(tmp_path: Path, kind: str, keys: dict[str, object]) -> None:
    architecture = getattr(transformers, kind)
    architecture(architecture.config_class(**keys)).save_pretrained(tmp_path)
    found = smoke(str(tmp_path))
    assert found.architecture == kind
    assert found.generated is None


def test_inputs_that_cannot_be_made_are_said_and_no_crash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AttributeError("'NoneType' object has no attribute 'shape'")

    llama().save_pretrained(tmp_path)
    monkeypatch.setattr(LlamaForCausalLM, "forward", refuse)
    with pytest.raises(RecipeError, match="cannot generate its input input_ids"):
        smoke(str(tmp_path))


def test_a_tokenizer_that_cannot_be_loaded_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    llama().save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    found = smoke(str(tmp_path))
    assert found.shape == (1, 8, 60)
    assert "cannot be loaded" in caplog.text


def test_a_weight_that_is_missing_is_named(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    llama().save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(VerificationError, match=r"model.layers.1.mlp.up_proj.weight is missing"):
        smoke(str(tmp_path))


def test_an_output_that_is_not_finite_is_an_error(tmp_path: Path) -> None:
    llama().float().save_pretrained(tmp_path)
    poke(tmp_path / "model.safetensors", "model.norm.weight", 3, torch.inf)
    with pytest.raises(VerificationError, match="NaN or Inf"):
        smoke(str(tmp_path))


def test_an_unknown_architecture_and_a_url_are_refused_with_the_reason(tmp_path: Path) -> None:
    llama().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "architectures": ["OwnArchitecture"]}))
    with pytest.raises(RecipeError, match="does not know the architecture OwnArchitecture"):
        smoke(str(tmp_path))
    with pytest.raises(RecipeError, match="local folders only"):
        smoke("s3://bucket/model")
