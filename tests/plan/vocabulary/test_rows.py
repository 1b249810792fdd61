"""Rows of single tokens, other tokenizers than the base's, padding (svc_dist.plan.vocabulary.result)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import svc_dist
from svc_dist.errors import PlanError, RecipeError
from tests.plan.vocabulary.test_vocabularies import NAMES, TOKENS, WIDTH, merged, model, reasons, refusal, tensors_of
from tests.support.adapters import config as adapter_config
from tests.support.adapters import write_adapter
from tests.support.checkpoints import recipe_data

NAME = NAMES[0]


def chat(folder: Path) -> list[Path]:
    """A base without, and two experts with chat tokens, of which they share one at another number."""
    extras: list[dict[str, int]] = [
        {},
        {"<|im_start|>": 50, "<|im_end|>": 51},
        {"<tool>": 50, "<|im_end|>": 51, "<|im_start|>": 52},
    ]
    names = ("base", "one", "two")
    return [model(folder / name, n, TOKENS | extras[n], rows=50 + len(extras[n])) for n, name in enumerate(names)]


def loaded(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


def test_a_union_loads_and_gives_each_token_its_row(tmp_path: Path) -> None:
    models = chat(tmp_path)
    found, (base, one, two) = merged(models, tokenizer_source="union"), map(tensors_of, models)
    tokenizer = loaded(tmp_path / "out")
    assert len(tokenizer) == 53
    assert [tokenizer.convert_tokens_to_ids(token) for token in TOKENS] == [*TOKENS.values()]
    ids = tokenizer("t3 <|im_start|> t4 <tool><|im_end|>").input_ids
    assert tokenizer.convert_ids_to_tokens(ids) == ["t3", "<|im_start|>", "t4", "<tool>", "<|im_end|>"]
    row = {token: tokenizer.convert_tokens_to_ids(token) for token in ("<|im_start|>", "<|im_end|>", "<tool>")}
    for name in NAMES:
        assert found[name].shape == (53, WIDTH)
        assert torch.equal(found[name][row["<tool>"]], two[name][50])
        assert torch.allclose(found[name][row["<|im_start|>"]], (one[name][50] + two[name][52]) / 2, atol=1e-6)
        assert torch.allclose(found[name][:50], one[name][:50] + two[name][:50] - base[name], atol=1e-6)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["vocab_size"] == 53
    assert (
        f"50 that all models have, 2 the mean of the models that have them, 1 from {models[2]}"
        in reasons(models, tokenizer_source="union")[NAME]
    )


def test_the_tokenizer_of_an_expert_rules_the_rows(tmp_path: Path) -> None:
    models = chat(tmp_path)
    found, (_, one, two) = merged(models, tokenizer_source="two"), map(tensors_of, models)
    assert (tmp_path / "out" / "tokenizer.json").read_bytes() == (models[2] / "tokenizer.json").read_bytes()
    assert json.loads((tmp_path / "out" / "config.json").read_text())["vocab_size"] == 53
    for name in NAMES:
        assert torch.equal(found[name][50], two[name][50])
        assert torch.allclose(found[name][51], (one[name][51] + two[name][51]) / 2, atol=1e-6)
        assert torch.allclose(found[name][52], (one[name][50] + two[name][52]) / 2, atol=1e-6)


def test_rows_of_single_tokens(tmp_path: Path) -> None:
    models = chat(tmp_path)
    tokens = {
        "<|im_start|>": {"source": "two"},
        "<|im_end|>": {"source": {"kind": "model_token", "model": "one", "token": "</s>"}, "force": True},
        "<tool>": {"source": {"kind": "zero"}},
        "<new>": {"source": {"kind": "model_token", "model": "base", "token_id": 3}},
        "<other>": None,
    }
    found = merged(models, "linear", tokenizer={"source": "union", "tokens": tokens, "pad_to_multiple_of": 8})
    base, one, two = map(tensors_of, models)
    tokenizer = loaded(tmp_path / "out")
    row = {token: tokenizer.convert_tokens_to_ids(token) for token in tokens}
    assert len(tokenizer) == 55
    for name in NAMES:
        assert found[name].shape == (56, WIDTH)
        assert torch.allclose(found[name][row["<|im_start|>"]], (one[name][50] + two[name][52]) / 2, atol=1e-6)
        assert torch.allclose(found[name][row["<|im_end|>"]], one[name][49], atol=1e-6)
        assert torch.allclose(found[name][row["<tool>"]], two[name][50] / 2, atol=1e-6)
        assert torch.allclose(found[name][row["<new>"]], base[name][3], atol=1e-6)
        assert not found[name][row["<other>"]].any()
        assert torch.allclose(found[name][55], found[name][:55].mean(0), atol=1e-6)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"source": "base"}, r"tokens\.<tool>\): .*base does not have the token '<tool>'"),
        (
            {"source": {"kind": "model_token", "model": "one", "token": "<none>"}},
            "one does not have the token '<none>'",
        ),
        (
            {"source": {"kind": "model_token", "model": "one", "token_id": 52}},
            r"one does not have row 52 \(it has 52\)",
        ),
        ({"force": True}, "`force: true` gives every model the row of `source`, which is missing"),
        ({"source": "three"}, "no model is called 'three'"),
    ],
)
def test_rows_that_are_not_there_are_refused(row: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=words):
        svc_dist.make_plan(recipe_data(chat(tmp_path), tokenizer={"tokens": {"<tool>": row}}))


def test_two_trained_vocabularies_are_no_union(tmp_path: Path) -> None:
    models = [
        model(tmp_path / name, n, TOKENS | {extra: 50}) for n, (name, extra) in enumerate((("base", "u"), ("one", "v")))
    ]
    plan = svc_dist.make_plan(recipe_data(models, vocab="union"))  # words of a list can be added to it
    assert [(token.content, token.word) for token in plan.added_tokens] == [("v", True)]
    merged(models, vocab="union")
    assert loaded(tmp_path / "out")("u v t3").input_ids == [50, 51, 3]
    for folder in models:
        found = json.loads((folder / "tokenizer.json").read_text())
        found["model"] = {"type": "BPE", "vocab": found["model"]["vocab"], "merges": []}
        (folder / "tokenizer.json").write_text(json.dumps(found))
    error = refusal(models, vocab="union")
    assert "has 1 token, like 'v'," in error.message
    assert "no one tokenizer can split text as both" in error.message
    assert "`tokenizer_source:`" in str(error.hint)
    svc_dist.make_plan(recipe_data(models, tokenizer_source="base"))


def test_vocab_and_another_tokenizer_contradict_each_other(tmp_path: Path) -> None:
    models = chat(tmp_path)
    models[1] = model(tmp_path / "moved", 1, {token: 49 - number for token, number in TOKENS.items()}, rows=50)
    error = refusal(models, vocab="base", tokenizer_source="two")
    assert "which do not go with this tokenizer" in error.message
    assert "take out `vocab`" in str(error.hint)


def test_models_that_share_hardly_any_token_are_refused(tmp_path: Path) -> None:
    models = [model(tmp_path / "base", 0, TOKENS), model(tmp_path / "one", 1, {f"u{n}": n for n in range(50)})]
    assert "hardly any token of the result is in all models" in refusal(models, tokenizer_source="base").message


def test_saved_embeddings_of_an_adapter_have_its_tokens(tmp_path: Path) -> None:
    base = model(tmp_path / "base", 0, TOKENS, rows=50)
    saved = {f"base_model.model.{name}": torch.randn(52, WIDTH) for name in NAMES}
    adapter = write_adapter(
        tmp_path / "adapter", saved, adapter_config(2, 2, modules_to_save=["embed_tokens", "lm_head"])
    )
    from tests.plan.files.test_sidecars import write_tokenizer

    write_tokenizer(adapter, TOKENS | {"<|im_start|>": 51, "<|im_end|>": 50})
    found = merged([base, adapter], tokenizer_source="union")
    for name in NAMES:
        assert torch.allclose(found[name], saved[f"base_model.model.{name}"], atol=1e-6)
    assert loaded(tmp_path / "out")("<|im_start|>").input_ids == [51]


def test_factors_of_rows_that_move_are_refused(tmp_path: Path) -> None:
    models = [
        model(tmp_path / "base", 0, TOKENS, rows=50),
        model(tmp_path / "two", 2, {"<x>": 0} | {t: n + 1 for t, n in TOKENS.items()}, rows=51),
    ]
    factors: dict[str, Tensor] = {
        "base_model.model.model.embed_tokens.lora_embedding_A": torch.randn(2, 50),
        "base_model.model.model.embed_tokens.lora_embedding_B": torch.randn(WIDTH, 2),
    }
    models.insert(1, write_adapter(tmp_path / "adapter", factors, adapter_config(2, 2)))
    found, base = merged(models, tokenizer_source="union"), tensors_of(models[0])
    delta = (
        factors["base_model.model.model.embed_tokens.lora_embedding_B"]
        @ factors["base_model.model.model.embed_tokens.lora_embedding_A"]
    ).T
    two = tensors_of(models[2])[NAME]
    assert torch.allclose(found[NAME][:50], two[1:] + delta, atol=1e-5)
    assert torch.equal(found[NAME][50], two[0])
    assert base[NAME].shape == (50, WIDTH)
    with pytest.raises(PlanError, match="LoRA on this tensor"):
        svc_dist.make_plan(recipe_data(models, tokenizer_source="two"))


def test_units_of_some_rows_write_the_bytes_of_one_unit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from svc_dist.checkpoint import layout

    models = chat(tmp_path)
    keys: dict[str, Any] = {"tokenizer": {"source": "union", "pad_to_multiple_of": 8}, "parameters": {"density": 0.5}}
    whole = merged(models, "dare_linear", **keys)
    (tmp_path / "out").rename(tmp_path / "whole")
    monkeypatch.setattr(layout, "MAX_RANGE", 4 * WIDTH * 5)
    monkeypatch.setattr(layout, "MIN_RANGE", 64)
    assert len(svc_dist.make_plan(recipe_data(models, "dare_linear", **keys)).units) > 15
    found = merged(models, "dare_linear", **keys)
    assert all(torch.equal(found[name], whole[name]) for name in whole)
