"""Which names are one tensor, by the names of real architectures, and what a config says about an output head."""

from __future__ import annotations

from typing import Any

import pytest

from svc_dist.plan.tensors.alias_groups import alias_groups, scales_tied_logits, ties, with_absent_heads, with_tied

V, OTHER = (40, 16), (40, 24)
HEADS = {
    "Qwen3": ("model.embed_tokens.weight", "lm_head.weight"),
    "Qwen2-VL": ("model.language_model.embed_tokens.weight", "lm_head.weight"),
    "LLaVA": ("language_model.model.embed_tokens.weight", "language_model.lm_head.weight"),
    "GPT-2": ("transformer.wte.weight", "lm_head.weight"),
    "GPT-NeoX": ("gpt_neox.embed_in.weight", "embed_out.weight"),
    "OPT": ("model.decoder.embed_tokens.weight", "lm_head.weight"),
    "Whisper": ("model.decoder.embed_tokens.weight", "proj_out.weight"),
    "BERT": ("bert.embeddings.word_embeddings.weight", "cls.predictions.decoder.weight"),
    "RoBERTa": ("roberta.embeddings.word_embeddings.weight", "lm_head.decoder.weight"),
    "Mamba": ("backbone.embeddings.weight", "lm_head.weight"),
    "DistilBERT": ("distilbert.embeddings.word_embeddings.weight", "vocab_projector.weight"),
    "BLOOM": ("transformer.word_embeddings.weight", "lm_head.weight"),
}


@pytest.mark.parametrize(("embedding", "head"), HEADS.values(), ids=HEADS.keys())
def test_a_head_belongs_to_the_embedding_of_its_family(embedding: str, head: str) -> None:
    (group,) = alias_groups({head: V, embedding: V, "model.layers.0.mlp.up_proj.weight": V, "pos.wpe.weight": V})
    assert (group.names, group.head, group.shared) == ((embedding, head), head, (embedding,))


@pytest.mark.parametrize("prefix", ["", "model.", "model.language_model."], ids=["T5", "BART", "Florence-2"])
def test_an_encoder_and_a_decoder_share_their_embedding_and_the_head_can_be_it_too(prefix: str) -> None:
    names = [f"{prefix}{name}.weight" for name in ("shared", "decoder.embed_tokens", "encoder.embed_tokens")]
    (group,) = alias_groups(dict.fromkeys(["lm_head.weight", *reversed(names)], V))
    assert group.shared == tuple(names)
    assert group.names == (*names, "lm_head.weight")


def test_an_encoder_and_a_decoder_without_a_shared_embedding_have_one_each() -> None:
    encoder, decoder = "model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight"
    (group,) = alias_groups({encoder: V, decoder: V, "lm_head.weight": V})
    assert group.names == (decoder, "lm_head.weight")


@pytest.mark.parametrize("head", ["cls.predictions", "lm_head", "predictions"])
def test_the_bias_of_a_head_is_stored_twice_by_some_libraries(head: str) -> None:
    (group,) = alias_groups({f"{head}.decoder.bias": (40,), f"{head}.bias": (40,)})
    assert group.names == (f"{head}.bias", f"{head}.decoder.bias")


@pytest.mark.parametrize(
    "shapes",
    [
        {"model.embed_tokens.weight": V},
        {"lm_head.weight": V},
        {"model.embed_tokens.weight": V, "lm_head.weight": OTHER},
        {"encoder.embed_tokens.weight": V, "encoder.layers.0.w.weight": V},
        {"blocks.0.decoder.bias": (4,), "blocks.0.bias": (4,)},
    ],
)
def test_other_names_are_no_group(shapes: dict[str, tuple[int, ...]]) -> None:
    assert alias_groups(shapes) == []


def test_each_part_of_an_omni_model_has_its_own_head() -> None:
    shapes = {
        f"{part}.{name}": V
        for part in ("thinker", "talker")
        for name in ("model.embed_tokens.weight", "lm_head.weight")
    }
    assert [group.names for group in alias_groups(shapes)] == [
        (f"{part}.model.embed_tokens.weight", f"{part}.lm_head.weight") for part in ("talker", "thinker")
    ] or [group.names for group in alias_groups(shapes)] == [
        (f"{part}.model.embed_tokens.weight", f"{part}.lm_head.weight") for part in ("thinker", "talker")
    ]


TIED, UNTIED = {"tie_word_embeddings": True}, {"tie_word_embeddings": False}


@pytest.mark.parametrize(
    ("config", "head", "says"),
    [
        (TIED, "lm_head.weight", True),
        (UNTIED, "lm_head.weight", False),
        ({"text_config": TIED}, "lm_head.weight", True),
        ({"text_config": TIED, "tie_word_embeddings": False}, "lm_head.weight", None),
        ({"vision_config": TIED, "text_config": UNTIED}, "lm_head.weight", False),
        ({"thinker_config": {"text_config": TIED}, "talker_config": UNTIED}, "thinker.lm_head.weight", True),
        ({"thinker_config": {"text_config": TIED}, "talker_config": UNTIED}, "talker.lm_head.weight", False),
        ({"text_config": "none"}, "lm_head.weight", None),
        ({}, "lm_head.weight", None),
        (None, "lm_head.weight", None),
    ],
)
def test_a_config_says_that_a_head_is_tied_or_not_or_nothing(config: Any, head: str, says: bool | None) -> None:
    assert ties(config, head) is says


def test_a_rewritten_config_says_it_wherever_a_library_looks() -> None:
    config = {"model_type": "x", "tie_word_embeddings": True, "text_config": {"a": 1}, "vision_config": dict(TIED)}
    assert with_tied(config, False) == {
        "model_type": "x", "tie_word_embeddings": False, "text_config": {"a": 1, "tie_word_embeddings": False},
        "vision_config": TIED,
    }  # fmt: skip
    assert ties(with_tied({"text_config": TIED}, False), "lm_head.weight") is False


def test_a_head_that_no_model_stores_has_the_name_of_its_family() -> None:
    shapes = {"model.embed_tokens.weight": V}
    tied = TIED | {"architectures": ["Qwen3ForCausalLM"]}
    (group,) = with_absent_heads([], shapes, tied)
    assert group.head == "lm_head.weight"
    (group,) = with_absent_heads([], {"transformer.wte.weight": V}, {"architectures": ["GPT2LMHeadModel"]})
    assert group.head == "lm_head.weight"
    whisper = {"architectures": ["WhisperForConditionalGeneration"], "model_type": "whisper"}
    (group,) = with_absent_heads([], {"model.decoder.embed_tokens.weight": V}, whisper)
    assert group.head == "proj_out.weight"
    for config in (UNTIED, {}, None, TIED | {"architectures": ["Qwen3ForSequenceClassification"]}):
        assert with_absent_heads([], shapes, config) == []


def test_some_families_compute_otherwise_when_untied() -> None:
    assert scales_tied_logits({"model_type": "t5"})
    assert not scales_tied_logits({"model_type": "qwen3"})
    assert not scales_tied_logits(None)
