"""``tokenizer_source`` that names a model which is not merged: its files are copied, its tokens rule the rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import svc_dist
from svc_dist.cli.texts import plan_lines
from svc_dist.errors import ChangedInputError, RecipeError
from tests.support.checkpoints import llama_config, llama_like, recipe_data, write_checkpoint

EMBEDDING = "model.embed_tokens.weight"
WORDS = [f"t{number}" for number in range(40)]


def write_tokenizer(folder: Path, words: list[str]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    model = {"type": "WordLevel", "vocab": {word: n for n, word in enumerate(words)}, "unk_token": "t0"}
    (folder / "tokenizer.json").write_text(json.dumps({"version": "1.0", "added_tokens": [], "model": model}))
    about = {"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": folder.name}
    (folder / "tokenizer_config.json").write_text(json.dumps(about))
    return folder


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    monkeypatch.chdir(tmp_path)
    folders = [
        write_checkpoint(tmp_path / name, llama_like(seed, dtype=torch.float32), config=llama_config())
        for seed, name in enumerate(("base", "one"))
    ]
    return [write_tokenizer(folder, WORDS) for folder in folders]


def recipe(models: list[Path], source: str) -> dict[str, Any]:
    return recipe_data(models, dtype="float32", tokenizer_source=source)


@pytest.mark.parametrize("source", ["other", "./other", "model:other", "ABSOLUTE"])
def test_its_files_are_copied(models: list[Path], tmp_path: Path, source: str) -> None:
    other = write_tokenizer(tmp_path / "other", WORDS)
    data = recipe(models, source.replace("ABSOLUTE", str(other)))
    text = "\n".join(plan_lines(svc_dist.make_plan(data)))
    assert f"sidecars from {other}: tokenizer.json, tokenizer_config.json" in text
    svc_dist.merge(data, tmp_path / "out", executor="inline")
    assert json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())["chat_template"] == "other"
    svc_dist.merge(recipe(models, "one"), tmp_path / "expected", executor="inline")
    for name in ("out", "expected"):
        assert not (tmp_path / name / "adapter_config.json").exists()
    assert load_file(tmp_path / "out" / "model.safetensors")[EMBEDDING].equal(
        load_file(tmp_path / "expected" / "model.safetensors")[EMBEDDING]
    )


def test_rows_follow_its_tokens(models: list[Path], tmp_path: Path) -> None:
    """Tokens in another order, two that no model has, and one that the models have and it has not."""
    write_tokenizer(tmp_path / "other", [*reversed(WORDS[:-1]), "new0", "new1"])
    svc_dist.merge(recipe(models, "other"), tmp_path / "out", executor="inline")
    svc_dist.merge(recipe_data(models, dtype="float32"), tmp_path / "plain", executor="inline")
    rows, plain = (load_file(tmp_path / name / "model.safetensors")[EMBEDDING] for name in ("out", "plain"))
    assert rows.shape == (41, 16)
    assert rows[:39].flip(0).equal(plain[:39])
    assert not rows[39:].any()
    assert json.loads((tmp_path / "out" / "config.json").read_text())["vocab_size"] == 41


def test_a_changed_file_of_it_stops_a_resume(models: list[Path], tmp_path: Path) -> None:
    other = write_tokenizer(tmp_path / "other", WORDS)
    svc_dist.merge(recipe(models, "other"), tmp_path / "out", executor="inline")
    (other / "tokenizer_config.json").write_text("{}")
    with pytest.raises(ChangedInputError, match=r"other/tokenizer_config\.json: was"):
        svc_dist.merge(recipe(models, "other"), tmp_path / "out", executor="inline")


@pytest.mark.parametrize(
    ("source", "words"),
    [("othr", "no model is called 'othr'"), ("./othr", "no such folder"), ("empty", "has no tokenizer")],
)
def test_what_is_no_tokenizer_is_the_recipes_error(models: list[Path], tmp_path: Path, source: str, words: str) -> None:
    write_tokenizer(tmp_path / "other", WORDS)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "config.json").write_text("{}")
    with pytest.raises(RecipeError, match=words):
        svc_dist.make_plan(recipe(models, source))
