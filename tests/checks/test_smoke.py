"""Loading a merged model in transformers and running it: what it says of good, broken and unknown ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
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
