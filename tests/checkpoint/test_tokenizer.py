"""Tokenizers by their files, and the chat template in every form."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from svc_dist.checkpoint.tokenizer import (
    chat_template,
    default_template,
    has_tokenizer,
    is_tokenizer_file,
    with_template,
)
from svc_dist.errors import DamagedInputError
from svc_dist.storage.base import Storage
from svc_dist.storage.open import open_storage


def folder(path: Path, **files: Any) -> Storage:
    """A folder with files; ``_`` in a name stands before its suffix, data that is no text is written as JSON."""
    for name, content in files.items():
        stem, _, suffix = name.rpartition("_")
        text = content if isinstance(content, str) else json.dumps(content)
        (path / f"{stem}.{suffix}").write_text(text)
    return open_storage(str(path))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("tokenizer.json", True),
        ("tokenizer.model", True),
        ("spiece.model", True),
        ("vocab.json", True),
        ("qwen.tiktoken", True),
        ("encoder.bpe", True),
        ("chat_template.jinja", True),
        ("tokenization_own.py", True),
        ("config.json", False),
        ("model.safetensors", False),
    ],
)
def test_which_files_are_a_tokenizers(name: str, expected: bool) -> None:
    assert is_tokenizer_file(name) is expected


def test_which_models_have_a_tokenizer() -> None:
    assert not has_tokenizer(["config.json", "tokenizer_config.json", "special_tokens_map.json"])
    for name in ("tokenizer.json", "vocab.json", "vocab.txt", "tokenizer.model", "qwen.tiktoken", "tekken.json"):
        assert has_tokenizer(["config.json", name])


def test_no_template_is_none(tmp_path: Path) -> None:
    assert chat_template(folder(tmp_path, config_json={})) is None


def test_a_template_file_comes_before_the_configs(tmp_path: Path) -> None:
    assert chat_template(folder(tmp_path, tokenizer_config_json={"chat_template": "of the config"})) == "of the config"
    assert chat_template(folder(tmp_path, chat_template_json={"chat_template": "own"})) == "own"
    assert chat_template(folder(tmp_path, chat_template_jinja="jinja")) == "jinja"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("one", "one"),
        ([{"name": "tool", "template": "t"}, {"name": "default", "template": "d"}], "d"),
        ({"default": "d", "tool": "t"}, "d"),
        ({"tool": "t"}, None),
        ("  \n", None),
        (None, None),
    ],
)
def test_of_several_templates_the_default_one_counts(given: Any, expected: str | None) -> None:
    assert default_template({"chat_template": given}, "here") == expected


@pytest.mark.parametrize("given", [3, ["a", "b"], {"default": 3}, [{"name": "default"}]])
def test_a_template_of_another_form_is_refused(given: Any) -> None:
    with pytest.raises(DamagedInputError, match="here: chat_template is neither"):
        default_template({"chat_template": given}, "here")


def test_a_config_with_another_template_keeps_the_rest() -> None:
    changed = with_template('{"eos_token": "é", "chat_template": "old"}'.encode(), "new")
    assert json.loads(changed) == {"eos_token": "é", "chat_template": "new"}
    assert "é".encode() in changed
