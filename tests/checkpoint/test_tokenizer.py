"""Tokenizers by their files: each token's number in every format, and the chat template in every form."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from svc_dist.checkpoint.tokenizer import (
    chat_template,
    default_template,
    is_tokenizer_file,
    token_numbers,
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


def test_a_tokenizer_json_has_a_mapping_or_a_list_and_added_tokens(tmp_path: Path) -> None:
    added = [{"content": "<pad>", "id": 2}]
    (tmp_path / "bpe").mkdir()
    bpe = folder(tmp_path / "bpe", tokenizer_json={"model": {"vocab": {"a": 0, "b": 1}}, "added_tokens": added})
    assert token_numbers(bpe) == ("tokenizer.json", {"a": 0, "b": 1, "<pad>": 2})
    (tmp_path / "unigram").mkdir()
    unigram = folder(tmp_path / "unigram", tokenizer_json={"model": {"vocab": [["a", -1.5], ["b", -2.0]]}})
    assert token_numbers(unigram) == ("tokenizer.json", {"a": 0, "b": 1})


def test_a_vocabulary_of_json_or_of_lines_takes_added_tokens(tmp_path: Path) -> None:
    lines = folder(tmp_path, vocab_txt="[PAD]\nthe\n", added_tokens_json={"<x>": 2})
    assert token_numbers(lines) == ("vocab.txt", {"[PAD]": 0, "the": 1, "<x>": 2})
    both = folder(tmp_path, vocab_json={"the": 7})
    assert token_numbers(both) == ("vocab.json", {"the": 7, "<x>": 2})


def test_a_binary_vocabulary_is_its_digest(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(b"\x00sentencepiece")
    digest = hashlib.sha256(b"\x00sentencepiece").hexdigest()
    assert token_numbers(open_storage(str(tmp_path))) == ("tokenizer.model", {f"sha256:{digest}": 0})


def test_no_tokenizer_is_none(tmp_path: Path) -> None:
    assert token_numbers(folder(tmp_path, config_json={})) is None
    assert chat_template(folder(tmp_path)) is None


@pytest.mark.parametrize("content", [{"model": {}}, {"model": {"vocab": 3}}, [], {"model": {"vocab": {"a": "x"}}}])
def test_a_tokenizer_json_that_is_none_is_damaged(tmp_path: Path, content: Any) -> None:
    with pytest.raises(DamagedInputError, match=r"tokenizer\.json"):
        token_numbers(folder(tmp_path, tokenizer_json=content))


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
