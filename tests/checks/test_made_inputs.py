"""Inputs made for a model are those that its config describes."""

from __future__ import annotations

import transformers

from svc_dist.checks.made_inputs import attempts, token_ids


def test_ids_are_ordinary_tokens() -> None:
    config = transformers.LlamaConfig(vocab_size=12, bos_token_id=0, eos_token_id=1, pad_token_id=2)
    ids = token_ids(config)[0].tolist()
    assert len(ids) == 8
    assert not {0, 1, 2} & set(ids)
    assert max(ids) < 12


def test_images_have_the_size_of_the_config() -> None:
    config = transformers.ViTConfig(
        image_size=(32, 48), num_channels=1, hidden_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    first = next(attempts(transformers.ViTModel(config)))
    assert {name: tuple(value.shape) for name, value in first.items()} == {"pixel_values": (1, 1, 32, 48)}
