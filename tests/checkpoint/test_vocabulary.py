"""Vocabularies: each token's number in every format, and the first number that two of them use differently."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from svc_dist.checkpoint.vocabulary import IncomparableError, Vocabulary, first_clash, read_vocabulary
from svc_dist.errors import DamagedInputError
from svc_dist.storage.open import open_storage

WORDS = {f"w{number}": number for number in range(6)}


def written(path: Path, files: Mapping[str, Any]) -> Vocabulary | None:
    """The vocabulary in a folder of these files: bytes, text, or data that is written as JSON."""
    path.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        data = content if isinstance(content, bytes | str) else json.dumps(content)
        (path / name).write_bytes(data.encode() if isinstance(data, str) else data)
    return read_vocabulary(open_storage(str(path)), {})


def fast(tokens: Mapping[str, int], added: Mapping[str, int] | None = None, unigram: bool = False) -> dict[str, Any]:
    vocab = [[token, -1.0] for token in tokens] if unigram else dict(tokens)
    entries = [{"id": number, "content": token, "special": True} for token, number in (added or {}).items()]
    return {"model": {"vocab": vocab}, "added_tokens": entries}


def sentencepiece(pieces: list[str]) -> bytes:
    """A SentencePiece model: pieces with scores, then a field of the trainer."""

    def field(number: int, data: bytes) -> bytes:
        return bytes([number << 3 | 2, len(data)]) + data

    entries = [field(1, field(1, piece.encode()) + b"\x15\x00\x00\x80\xbf\x18\x02") for piece in pieces]
    return b"".join(entries) + field(2, b"\x18\x05")


def tekken(tokens: list[str], special: list[str]) -> dict[str, Any]:
    vocab = [{"rank": rank, "token_bytes": base64.b64encode(t.encode()).decode()} for rank, t in enumerate(tokens)]
    entries = [{"rank": rank, "token_str": token} for rank, token in enumerate(special)]
    return {"config": {"default_num_special_tokens": len(special)}, "vocab": vocab, "special_tokens": entries}


def tiktoken(tokens: list[str]) -> str:
    return "".join(f"{base64.b64encode(token.encode()).decode()} {rank}\n" for rank, token in enumerate(tokens))


@pytest.mark.parametrize(
    "files",
    [
        {"tokenizer.json": fast(WORDS, {"<x>": 9})},
        {"tokenizer.json": fast(WORDS, {"<x>": 9}, unigram=True)},
        {"tokenizer.json": fast(WORDS), "tokenizer_config.json": {"added_tokens_decoder": {"9": {"content": "<x>"}}}},
        {"vocab.json": WORDS, "added_tokens.json": {"<x>": 9}},
        {"vocab.json": WORDS, "tokenizer_config.json": {"added_tokens_decoder": {"9": {"content": "<x>"}}}},
        {"vocab.txt": "\n".join(WORDS) + "\n", "added_tokens.json": {"<x>": 9}},
        {"vocab.txt": "\n".join(WORDS), "added_tokens.json": {"<x>": 9}, "tokenizer_config.json": "["},
    ],
)  # fmt: skip
def test_every_file_of_words_gives_the_same_tokens(files: dict[str, Any], tmp_path: Path) -> None:
    found = written(tmp_path / "one", files)
    assert found is not None
    assert found.words == {**WORDS, "<x>": 9}
    other = written(tmp_path / "other", {"tokenizer.json": fast(WORDS)})
    assert other is not None
    clash = first_clash(found, other, 64)
    assert clash is not None
    assert str(clash) == f"the token '<x>' is number 9 in {tmp_path}/one, but none in {tmp_path}/other"
    assert first_clash(found, other, 9) is None  # the tensor has no row of that number


def test_equal_files_are_parsed_once(tmp_path: Path) -> None:
    known: dict[str, Mapping[str, int]] = {}
    for name in ("one", "other"):
        written(tmp_path / name, {"tokenizer.json": fast(WORDS)})
    one, other = (read_vocabulary(open_storage(str(tmp_path / name)), known) for name in ("one", "other"))
    assert one is not None
    assert other is not None
    assert one.words is other.words


@pytest.mark.parametrize(
    ("ours", "theirs", "said"),
    [
        ({"<a>": 6}, {"<b>": 6}, "the token '<a>' is number 6 in one, but none in other (there 6 is '<b>')"),
        ({"<a>": 6, "<b>": 7}, {"<a>": 7, "<b>": 6}, "'<a>' is number 6 in one, but 7 in other (there 6 is '<b>')"),
        ({}, {"<b>": 8}, "the token '<b>' is number 8 in other, but none in one"),
        ({"<a>": 70}, {"<b>": 70}, None),
        ({"<a>": 6}, {"<a>": 70}, "the token '<a>' is number 6 in one, but 70 in other"),
    ],
)
def test_a_clash_names_the_token_and_its_numbers(
    ours: dict[str, int], theirs: dict[str, int], said: str | None
) -> None:
    clash = first_clash(Vocabulary("one", {**WORDS, **ours}), Vocabulary("other", {**WORDS, **theirs}), 64)
    assert (clash is None) if said is None else said in str(clash)


PIECES = ["<unk>", "<s>", "</s>", "a", "b"]


@pytest.mark.parametrize(
    ("one", "other", "said"),
    [
        ({"tokenizer.model": sentencepiece(PIECES)}, {"tokenizer.model": sentencepiece(PIECES)}, None),
        ({"tokenizer.model": sentencepiece(PIECES)}, {"tokenizer.model": sentencepiece([*PIECES, "c"])},
         "the token 'c' is number 5 in other, but none in one"),
        ({"spiece.model": sentencepiece(PIECES)}, {"tokenizer.model": sentencepiece([*PIECES[:4], "c"])},
         "the token 'b' is number 4 in one, but none in other (there 4 is 'c')"),
        ({"tokenizer.model": sentencepiece(PIECES), "added_tokens.json": {"<x>": 5}},
         {"tokenizer.model": sentencepiece(PIECES), "added_tokens.json": {"<y>": 5}},
         "the token '<x>' is number 5 in one, but none in other (there 5 is '<y>')"),
        ({"tokenizer.model": sentencepiece(PIECES), "tokenizer.json": fast(WORDS, {"<s>": 1, "<x>": 5})},
         {"tokenizer.model": sentencepiece(PIECES)}, "the token '<x>' is number 5 in one, but none in other"),
        ({"tokenizer.model": sentencepiece(PIECES), "tokenizer.json": fast(WORDS, {"<s>": 0, "</s>": 2})},
         {"tokenizer.model": sentencepiece(PIECES)}, None),
        ({"tokenizer.model": b"\x00odd"}, {"tokenizer.model": b"\x00other"}, "(the whole of .model)"),
        ({"tekken.json": tekken(["a", "b"], ["<s>"])}, {"tekken.json": tekken(["a", "b"], ["<s>"])}, None),
        ({"tekken.json": tekken(["a", "b"], ["<s>"])}, {"tekken.json": tekken(["a", "b"], ["<x>"])},
         "the token '<s>' is number 0 in one, but none in other (there 0 is '<x>')"),
        ({"qwen.tiktoken": tiktoken(["a", "b"])}, {"qwen.tiktoken": tiktoken(["a", "c"])}, "is number 1 in one"),
    ],
)  # fmt: skip
def test_vocabularies_of_their_own_format(
    one: dict[str, Any], other: dict[str, Any], said: str | None, tmp_path: Path
) -> None:
    found = [written(tmp_path / name, files) for name, files in (("one", one), ("other", other))]
    assert found[0] is not None
    assert found[1] is not None
    clash = first_clash(found[0], found[1], 64)
    assert (clash is None) if said is None else said in str(clash).replace(f"{tmp_path}/", "")


@pytest.mark.parametrize(
    "decoder", [3, [1], {"9": 3}, {"9": {"content": 3}}, {"x": {"content": "<x>"}}, {"9": {}}, {"9": {"content": None}}]
)
def test_odd_entries_of_added_tokens_are_none(decoder: Any, tmp_path: Path) -> None:
    files = {"tokenizer.json": fast(WORDS), "tokenizer_config.json": {"added_tokens_decoder": decoder}}
    found = written(tmp_path, files)
    assert found is not None
    assert found.words == WORDS


@pytest.mark.parametrize("data", [b"\xff" * 100_000, b"\n\x05", b"\n\x02\n\xff", b"\x0b", b""])
def test_odd_files_of_pieces_are_only_equal_or_not(data: bytes, tmp_path: Path) -> None:
    one, other = written(tmp_path / "one", {"a.model": data}), written(tmp_path / "other", {"a.model": data + b"\n"})
    assert one is not None
    assert other is not None
    assert first_clash(one, one, 64) is None
    clash = first_clash(one, other, 64)
    assert clash is not None
    assert "the whole of .model" in str(clash)


def test_what_has_no_format_in_common_cannot_be_compared(tmp_path: Path) -> None:
    one = written(tmp_path / "one", {"tokenizer.json": fast(WORDS)})
    other = written(tmp_path / "other", {"tokenizer.model": sentencepiece(PIECES)})
    assert one is not None
    assert other is not None
    with pytest.raises(IncomparableError):
        first_clash(one, other, 64)


def test_no_vocabulary_is_none(tmp_path: Path) -> None:
    assert written(tmp_path, {"config.json": {}, "tokenizer_config.json": {}}) is None


@pytest.mark.parametrize(
    "content",
    [{"model": {}}, {"model": {"vocab": 3}}, [], {"model": {"vocab": {"a": "x"}}}, fast({}) | {"added_tokens": [3]}],
)  # fmt: skip
def test_a_tokenizer_json_that_is_none_is_damaged(tmp_path: Path, content: Any) -> None:
    with pytest.raises(DamagedInputError, match=r"tokenizer\.json"):
        written(tmp_path, {"tokenizer.json": content})
