"""Tokenizer files with more tokens: the numbers that loaders give them are those that the rows have."""

from __future__ import annotations

import json
from typing import Any

import pytest

from svc_dist.plan.vocabulary.added_tokens import AddedToken, with_tokens

WORDS = {f"w{number}": number for number in range(8)}
ENTRY = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}


def tokenizer(kind: str, vocabulary: Any, added: dict[str, int]) -> bytes:
    model = {"type": kind, "vocab": vocabulary}
    model |= {"unk_token": "w0"} if kind == "WordLevel" else {"merges": []} if kind == "BPE" else {"unk_id": 0}
    entries = [{"id": number, "content": token, **ENTRY} for token, number in added.items()]
    data = {"version": "1.0", "model": model, "added_tokens": entries, "pre_tokenizer": {"type": "WhitespaceSplit"}}
    return json.dumps(data).encode()


@pytest.mark.parametrize(
    ("kind", "vocabulary", "added", "tokens"),
    [
        ("WordLevel", WORDS, {}, [AddedToken("<a>", 8), AddedToken("<b>", 9, special=True)]),
        (
            "WordLevel",
            WORDS,
            {"<s>": 8},
            [AddedToken("<a>", 9), AddedToken("word", 10, word=True), AddedToken("<b>", 11)],
        ),
        ("BPE", WORDS, {"<s>": 8}, [AddedToken("<a>", 9), AddedToken("<b>", 10)]),
        ("BPE", {**WORDS, "far": 20}, {"<s>": 9}, [AddedToken("<a>", 21), AddedToken("<b>", 22)]),
        ("Unigram", [[word, -1.0] for word in WORDS], {"<s>": 8}, [AddedToken("<a>", 9), AddedToken("<b>", 10)]),
    ],
)
def test_loaders_number_tokens_as_written(
    kind: str, vocabulary: Any, added: dict[str, int], tokens: list[AddedToken]
) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    data = with_tokens("tokenizer.json", tokenizer(kind, vocabulary, added), tokens)
    loaded = tokenizers.Tokenizer.from_str(data.decode())
    for token in tokens:
        assert loaded.token_to_id(token.content) == token.id
        if not token.word or kind == "WordLevel":
            assert loaded.encode(token.content).ids == [token.id]


def test_lists_of_added_tokens_get_them_too() -> None:
    tokens = [AddedToken("<a>", 8, special=True), AddedToken("word", 9, word=True)]
    config = {"added_tokens_decoder": {"7": {"content": "</s>", **ENTRY}}, "eos_token": "</s>"}
    found = json.loads(with_tokens("tokenizer_config.json", json.dumps(config).encode(), tokens))
    assert found["added_tokens_decoder"]["8"] == {"content": "<a>", **ENTRY, "normalized": True}
    assert [*found["added_tokens_decoder"]] == ["7", "8"]
    assert json.loads(with_tokens("tokenizer_config.json", b"{}", tokens)) == {}
    assert json.loads(with_tokens("added_tokens.json", b'{"</s>": 7}', tokens)) == {"</s>": 7, "<a>": 8, "word": 9}
